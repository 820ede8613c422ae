"""A command of the driver's that behaves oddly, in place of `clipfs`: a real process."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from csi.command import run_index

Odd = Callable[[str], None]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Odd:
    """Have the driver start a shell script, in tmp_path, as `clipfs`."""

    def make(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return make


def test_one_that_closes_its_stdout_is_stopped_once_nobody_wants_it(odd: Odd) -> None:
    odd("echo half; exec sleep 1000 >&-")
    done = run_index(["image"], {}, on_told=lambda _: None, is_wanted=lambda: False)
    assert done.returncode in (-signal.SIGINT, -signal.SIGKILL)  # the first may be ignored here


def test_one_that_closes_its_stdout_is_heard_and_waited_for(odd: Odd, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    odd("echo all; exec >&-; read line < gate; exit 7")
    looks = iter((lambda: None, lambda: (tmp_path / "gate").write_text("go on\n")))

    def is_wanted() -> bool:
        next(looks, lambda: None)()
        return True

    done = run_index(["image"], {}, on_told=lambda _: None, is_wanted=is_wanted)
    assert (done.returncode, done.stdout) == (7, b"all\n")


def test_what_it_leaves_behind_keeps_nobody_waiting(odd: Odd, tmp_path: Path) -> None:
    odd("sleep 1000 & echo $! > pid; echo done")
    try:
        done = run_index(["image"], {}, on_told=lambda _: None, is_wanted=lambda: True)
        assert (done.returncode, done.stdout) == (0, b"done\n")
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
