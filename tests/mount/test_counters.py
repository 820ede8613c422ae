"""Reads and bytes add up over processes, however those end."""

import errno
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from clipfs.mount import counters, figures
from clipfs.system.processes import name_of

COUNTING = """
import sys
from pathlib import Path
from clipfs.layer.layout import Layout
from clipfs.mount import counters
with counters.open_own(Layout(Path(sys.argv[1]))) as own:
    for _ in range(3):
        own.count_read("content_cache", 1 << 33, 0.001)
    own.count_trouble("errors")
    own.count_indexed()
    print("counted", flush=True)
    sys.stdin.read()
"""


NO_TROUBLE = {"errors": 0, "verify_failures": 0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def counting(layout: Layout) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING, str(layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"counted\n"
    return process


def end(process: subprocess.Popen[bytes], how: int | None) -> None:
    with process:
        if how is not None:
            process.send_signal(how)


def test_nothing_counted_is_zero(layout: Layout) -> None:
    nothing = {"reads": 0, "bytes": 0}
    expected = dict.fromkeys(figures.TIERS, nothing) | {"content_cache": nothing | NO_TROUBLE}
    assert counters.sum_all(layout) == expected
    assert counters.of(layout, os.getpid()) == expected


def test_a_running_process_counts_for_itself_and_in_the_sum(layout: Layout) -> None:
    with counters.open_own(layout) as own:
        own.count_read("disk", 5, 0.001)
        own.count_read("disk", 7, 0.001)
        own.count_download(1)
        own.count_download(8)
        own.count_read("registry", 0, 0.001)
        assert counters.of(layout, os.getpid())["disk"] == {"reads": 2, "bytes": 12}
        assert counters.sum_all(layout)["registry"] == {"reads": 1, "bytes": 9}
    assert counters.sum_all(layout)["disk"] == {"reads": 2, "bytes": 12}
    assert counters.of(layout, os.getpid())["disk"] == {"reads": 0, "bytes": 0}


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_what_a_process_counted_outlives_it(layout: Layout, how: int | None) -> None:
    first, second = counting(layout), counting(layout)
    expected = {"reads": 3, "bytes": 3 << 33, "errors": 1, "verify_failures": 0}
    assert counters.of(layout, first.pid)["content_cache"] == expected
    end(first, how)
    twice = {"reads": 6, "bytes": 6 << 33, "errors": 2, "verify_failures": 0}
    for _ in range(2):  # counted once, whoever looks and how often
        assert counters.sum_all(layout)["content_cache"] == twice
    end(second, how)
    assert counters.sum_all(layout)["content_cache"] == twice
    numbers = counters.numbers_of_all(layout)
    assert numbers[figures.INDEXED] == 2
    times = figures.times_of(numbers, "content_cache")
    assert (sum(times.counts), round(times.seconds, 6)) == (6, 0.006)
    assert [path.name for path in (layout.run / "counters").iterdir()] == ["ended"]


@pytest.mark.parametrize("numbers", [6, 8, 11])
def test_what_an_earlier_version_counts_is_taken_for_what_it_was(
    numbers: int, layout: Layout
) -> None:
    folder = layout.run / "counters"
    folder.mkdir(parents=True)
    for name in ("ended", name_of(os.getppid())):  # a server of that version lives on
        (folder / name).write_bytes(struct.pack(f"={numbers}Q", *range(1, numbers + 1)))
    with counters.open_own(layout) as own:
        own.count_trouble("verify_failures")
        own.count_indexed()
    counters.count_evicted(layout, 2)
    found = counters.sum_all(layout)
    known = numbers > 6
    assert found["registry"] == {"reads": 10, "bytes": 12}
    assert found["content_cache"] == {
        "reads": 6, "bytes": 8, "errors": 14 * known, "verify_failures": 1 + 16 * known
    }  # fmt: skip
    total = counters.numbers_of_all(layout)
    assert (total[figures.INDEXED], total[figures.EVICTED]) == (1, 2)
    for tier in figures.TIERS:
        times = figures.times_of(total, tier)
        assert (sum(times.counts), times.seconds) == (0, 0), "it took no times"


@pytest.mark.parametrize(
    ("seconds", "place"),
    [
        pytest.param(0, 0, id="no time at all"),
        pytest.param(0.00005, 0, id="a bound belongs to the class below it"),
        pytest.param(0.0000501, 1, id="just above"),
        pytest.param(30, 17, id="the last bound"),
        pytest.param(30.1, 18, id="beyond"),
        pytest.param(86400, 18, id="a day"),
    ],
)
def test_a_read_is_in_the_class_of_its_time(seconds: float, place: int, layout: Layout) -> None:
    with counters.open_own(layout) as own:
        own.count_read("registry", 0, seconds)
        numbers = counters.numbers_of_all(layout)
    times = figures.times_of(numbers, "registry")
    assert [at for at, count in enumerate(times.counts) if count] == [place]
    assert len(times.counts) == len(figures.BOUNDS_S) + 1
    assert times.seconds == pytest.approx(seconds)
    assert sum(figures.times_of(numbers, "disk").counts) == 0


def test_places_of_numbers_are_those_that_files_on_nodes_have() -> None:
    assert list(figures.READS.values()) == [0, 2, 4]
    assert list(figures.TROUBLE.values()) == [6, 7]
    assert (figures.FILL_LAYERS, figures.FILL_BYTES, figures.FILL_STATE) == (8, 9, 10)
    assert list(figures.TIMES.values()) == [11, 31, 51]
    assert (figures.INDEXED, figures.EVICTED, figures.FAILED) == (71, 72, 73)
    assert figures.SIZE_BYTES == 74 * 8


def test_a_background_fill_is_told_by_its_process_alone(layout: Layout) -> None:
    off = {"state": "off", "layers": 0, "bytes": 0}
    with counters.open_own(layout) as own:
        assert counters.fill_of(layout, os.getpid()) == off
        own.fill_is("no_room")
        own.fill_brought(5)
        own.fill_brought(7)
        own.fill_completed()
        own.count_read("registry", 3, 0.001)
        assert counters.fill_of(layout, os.getpid()) == {
            "state": "no_room", "layers": 1, "bytes": 12
        }  # fmt: skip
    assert counters.fill_of(layout, os.getpid()) == off
    assert counters.sum_all(layout)["registry"] == {"reads": 1, "bytes": 3}
    assert counters.sum_all(layout)["disk"] == {"reads": 0, "bytes": 0}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_loses_the_numbers_and_fails_nobody(
    number: int, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "planted")

    for refused in ("open", "mkdir"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, refused, refuse)
            with counters.open_own(layout) as own:
                own.count_read("disk", 5, 0.001)
    with counters.open_own(layout) as own:
        own.count_read("disk", 7, 0.001)
        monkeypatch.setattr(counters, "_fold", refuse)
    monkeypatch.undo()
    assert counters.sum_all(layout)["disk"] == {"reads": 1, "bytes": 7}
