"""Reads and bytes add up over processes, however those end."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from clipfs.mount import counters

COUNTING = """
import sys
from pathlib import Path
from clipfs.layer.layout import Layout
from clipfs.mount import counters
with counters.open_own(Layout(Path(sys.argv[1]))) as own:
    for _ in range(3):
        own.count_read("content_cache", 1 << 33)
    print("counted", flush=True)
    sys.stdin.read()
"""


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
    assert counters.sum_all(layout) == dict.fromkeys(counters.TIERS, nothing)
    assert counters.of(layout, os.getpid()) == dict.fromkeys(counters.TIERS, nothing)


def test_a_running_process_counts_for_itself_and_in_the_sum(layout: Layout) -> None:
    with counters.open_own(layout) as own:
        own.count_read("disk", 5)
        own.count_read("disk", 7)
        own.count_download(1)
        own.count_download(8)
        own.count_read("registry", 0)
        assert counters.of(layout, os.getpid())["disk"] == {"reads": 2, "bytes": 12}
        assert counters.sum_all(layout)["registry"] == {"reads": 1, "bytes": 9}
    assert counters.sum_all(layout)["disk"] == {"reads": 2, "bytes": 12}
    assert counters.of(layout, os.getpid())["disk"] == {"reads": 0, "bytes": 0}


def test_wrong_answers_are_counted_beside_the_tiers_and_outlive_their_process(
    layout: Layout,
) -> None:
    for number in (2, 4):
        with counters.open_own(layout) as own:
            own.count_wrong()
            own.count_wrong()
            own.count_error()
            found = counters.faults(layout)
            assert found == {"chunk_verify_failures": number, "content_cache_errors": number // 2}
    nothing = {"reads": 0, "bytes": 0}
    assert counters.sum_all(layout) == dict.fromkeys(counters.TIERS, nothing)


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_what_a_process_counted_outlives_it(layout: Layout, how: int | None) -> None:
    first, second = counting(layout), counting(layout)
    expected = {"reads": 3, "bytes": 3 << 33}
    assert counters.of(layout, first.pid)["content_cache"] == expected
    end(first, how)
    twice = {"reads": 6, "bytes": 6 << 33}
    for _ in range(2):  # counted once, whoever looks and how often
        assert counters.sum_all(layout)["content_cache"] == twice
    end(second, how)
    assert counters.sum_all(layout)["content_cache"] == twice
    assert [path.name for path in (layout.run / "counters").iterdir()] == ["ended"]


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
                own.count_read("disk", 5)
    with counters.open_own(layout) as own:
        own.count_read("disk", 7)
        monkeypatch.setattr(counters, "_fold", refuse)
    monkeypatch.undo()
    assert counters.sum_all(layout)["disk"] == {"reads": 1, "bytes": 7}
