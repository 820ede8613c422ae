"""Partial payloads: which chunks are there, and how a whole one becomes the payload."""

import errno
import os
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import Layout
from clipfs.layer.partial import MAP_HEADER_BYTES, Partial, publish_first_pass
from tests.layer.partials import CHUNKS, KEY, PAYLOAD, opened, present, write


def test_a_new_partial_misses_everything(layout: Layout) -> None:
    with opened(layout) as partial:
        assert partial.missing(range(CHUNKS)) == [range(CHUNKS)]
        assert not partial.is_complete()
        assert layout.partial_payload(KEY).stat().st_size == len(PAYLOAD)
        assert layout.partial_payload(KEY).stat().st_mode & 0o777 == 0o600


@settings(deadline=None)
@given(st.sets(st.integers(0, CHUNKS - 1)), st.integers(0, CHUNKS), st.integers(0, CHUNKS))
def test_missing_gives_the_runs_of_what_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, written: set[int], one: int, other: int
) -> None:
    layout = Layout(tmp_path_factory.mktemp("root"))
    layout.make()
    asked = range(min(one, other), max(one, other))
    with opened(layout) as partial:
        write(partial, *written)
        runs = partial.missing(asked)
        assert [chunk for run in runs for chunk in run] == sorted(set(asked) - written)
        assert all(before.stop < after.start for before, after in pairwise(runs))
        assert partial.is_complete() == (len(written) == CHUNKS)


def test_a_payload_of_no_bytes_is_complete(layout: Layout) -> None:
    with opened(layout, b"") as partial:
        assert partial.is_complete()
        partial.promote()
    assert layout.payload(KEY).read_bytes() == b""


def test_processes_share_a_partial_without_telling_each_other(layout: Layout) -> None:
    with opened(layout) as mine, opened(layout) as other:
        write(mine, 0, 3)
        write(other, 4)
        assert present(mine) == present(other) == {0, 3, 4}


def test_what_a_killed_process_wrote_is_there_within_the_same_boot(layout: Layout) -> None:
    with opened(layout) as partial:
        write(partial, 1, 4)
    with opened(layout) as partial:
        assert present(partial) == {1, 4}


def test_what_was_not_synced_counts_as_absent_after_a_boot(
    layout: Layout, next_boot: Callable[[], None]
) -> None:
    with opened(layout) as partial:
        write(partial, 0, 1)
        partial.sync()
        write(partial, 2)
    next_boot()
    with opened(layout) as partial:
        assert present(partial) == {0, 1}
    next_boot()
    with opened(layout) as partial:
        assert present(partial) == {0, 1}


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:20], id="cut-in-its-header"),
        pytest.param(lambda data: data[: MAP_HEADER_BYTES + 1], id="cut-in-its-states"),
        pytest.param(lambda data: b"CLIPMAP0" + data[8:], id="other-version"),
        pytest.param(lambda data: data[:44] + b"\xff" + data[45:], id="other-payload-size"),
        pytest.param(lambda data: data[:8] + b"x" * 36 + data[44:], id="other-boot"),
    ],
)
def test_a_spoiled_map_promises_nothing_that_is_not_there(
    layout: Layout, spoil: Callable[[bytes], bytes]
) -> None:
    with opened(layout) as partial:
        write(partial, 0, 2)
    layout.chunk_map(KEY).write_bytes(spoil(layout.chunk_map(KEY).read_bytes()))
    with opened(layout) as partial:
        assert present(partial) <= {0, 2}
        write(partial, *range(CHUNKS))
        assert present(partial) == set(range(CHUNKS))


def test_a_map_that_outlived_its_payload_is_not_believed(layout: Layout) -> None:
    """As a power cut leaves it between the two removals, or a lost payload before them."""
    with opened(layout) as partial:
        write(partial, *range(CHUNKS))
        partial.sync()
        kept = layout.chunk_map(KEY).read_bytes()
        partial.promote()
    layout.payload(KEY).unlink()
    layout.chunk_map(KEY).write_bytes(kept)
    for _ in range(2):
        with opened(layout) as partial:
            assert present(partial) == set()


def test_a_complete_partial_becomes_the_payload(layout: Layout) -> None:
    with opened(layout) as partial:
        write(partial, *range(CHUNKS))
        partial.promote()
        assert present(partial) == set(range(CHUNKS))
    assert layout.payload(KEY).read_bytes() == PAYLOAD
    assert layout.payload(KEY).stat().st_mode & 0o777 == 0o400
    assert list(layout.partial.iterdir()) == []


def test_an_incomplete_partial_does_not(layout: Layout) -> None:
    with opened(layout) as partial:
        write(partial, 0)
        with pytest.raises(errors.NodeFault, match="not complete"):
            partial.promote()
    assert list(layout.cache.iterdir()) == []


def test_a_second_promotion_changes_nothing(layout: Layout) -> None:
    with opened(layout) as mine, opened(layout) as other:
        write(mine, *range(CHUNKS))
        mine.promote()
        with opened(layout) as later:  # a partial of its own, as after an eviction
            other.promote()
            mine.promote()
            assert present(later) == set()
            assert layout.partial_payload(KEY).exists()
            assert layout.chunk_map(KEY).exists()
    assert layout.payload(KEY).read_bytes() == PAYLOAD


def test_a_finished_first_pass_replaces_the_partial_and_its_readers_keep_theirs(
    layout: Layout,
) -> None:
    with opened(layout) as reader:
        write(reader, 1)
        layout.first_pass("record").write_bytes(PAYLOAD)
        assert present(reader) == {1}
        publish_first_pass(layout, KEY, layout.first_pass("record"))
        write(reader, 0, 2, 3, 4)
        assert present(reader) == set(range(CHUNKS))
        reader.promote()
    assert layout.payload(KEY).read_bytes() == PAYLOAD
    assert list(layout.partial.iterdir()) == []


def test_data_that_the_disk_has_lost_is_absent_however_well_the_next_fsync_goes(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a failed write-back once; after that the pages count as clean."""

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "planted")

    with Partial(layout, KEY, payload_bytes=2 * CHUNK_BYTES) as partial:
        partial.write(range(1), b"a" * CHUNK_BYTES)
        partial.sync()
        partial.write(range(1, 2), b"b" * CHUNK_BYTES)
        assert partial.is_complete()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="planted"):
                partial.promote()
        assert partial.missing(range(2)) == [range(1, 2)]
        with pytest.raises(errors.NodeFault, match="not complete"):
            partial.promote()
    assert not layout.payload(KEY).exists()
