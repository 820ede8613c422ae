"""Ranges to read: fresh, apart from each other, inside the file."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.reads import PAGE, READ_BYTES, Reads, make_cold, offsets, timed_read
from demo.stage import NotAsPromised

READ_AHEAD_BYTES = 256 << 10


@settings(deadline=None)
@given(st.integers(min_value=13 << 20, max_value=1 << 33), st.integers(1, 5))
def test_no_read_meets_what_another_made_the_kernel_read_ahead(size: int, count: int) -> None:
    starts = offsets(size, count=count)
    assert len(starts) == count
    assert all(start % PAGE == 0 and start + READ_BYTES <= size for start in starts)
    assert all(b - a >= READ_BYTES + READ_AHEAD_BYTES for a, b in pairwise(starts))


def test_a_small_file_is_refused() -> None:
    with pytest.raises(NotAsPromised, match="too small"):
        offsets(1 << 20)


def test_a_read_that_ends_early_is_told(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(READ_BYTES - 1))
    with pytest.raises(NotAsPromised, match="not 53248"):
        timed_read(tmp_path / "short", 0)


def test_a_file_made_cold_reads_as_before(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1024
    (tmp_path / "file").write_bytes(data)
    make_cold(tmp_path)
    assert timed_read(tmp_path / "file", PAGE)[1] == data[PAGE : PAGE + READ_BYTES]


def test_the_median_is_of_the_seconds_and_the_mean_of_the_bytes() -> None:
    done = Reads(seconds=[9.0, 1.0, 2.0], moved={"disk": 300}, data=[])
    assert (done.median_s, done.bytes_a_read("disk")) == (2.0, 100)
