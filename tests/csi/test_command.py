"""A command of the driver's that behaves oddly, in place of `clipfs`: a real process."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from csi.command import run_index
from csi.launcher import Launcher

REPOSITORY = Path(__file__).parents[2]
Odd = Callable[[str], Launcher]

LAUNCH = """#!{python}
import os, socket, sys
sys.path.insert(0, {repository!r})
from clipfs.system.forking import forks_for
os.chdir({home!r})
forks_for(socket.socket(fileno=int(sys.argv[4])), lambda _: os.execv("/bin/sh", ["sh", {script!r}]))
"""
"""What the driver starts as `python -m csi.launch DRIVER_PID DESCRIPTOR ...`."""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    """Have the driver start a shell script, in tmp_path, as `clipfs`."""
    with ExitStack() as stack:

        def make(script: str) -> Launcher:
            program, commands = tmp_path / "python", tmp_path / "script"
            commands.write_text(script)
            program.write_text(
                LAUNCH.format(
                    python=sys.executable,
                    repository=str(REPOSITORY),
                    home=str(tmp_path),
                    script=str(commands),
                )
            )
            program.chmod(0o755)
            monkeypatch.setattr(sys, "executable", str(program))
            launcher = Launcher()
            stack.enter_context(launcher.running())
            return launcher

        yield make


def test_one_that_closes_its_stdout_is_stopped_once_nobody_wants_it(odd: Odd) -> None:
    launcher = odd("echo half; exec sleep 1000 >&-")
    done = run_index(launcher, ["image"], {}, on_told=lambda _: None, is_wanted=lambda: False)
    assert done.returncode in (-signal.SIGINT, -signal.SIGKILL)  # the first may be ignored here


def test_one_that_closes_its_stdout_is_heard_and_waited_for(odd: Odd, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    launcher = odd("echo all; exec >&-; read line < gate; exit 7")
    looks = iter((lambda: None, lambda: (tmp_path / "gate").write_text("go on\n")))

    def is_wanted() -> bool:
        next(looks, lambda: None)()
        return True

    done = run_index(launcher, ["image"], {}, on_told=lambda _: None, is_wanted=is_wanted)
    assert (done.returncode, done.stdout) == (7, b"all\n")


def test_what_it_leaves_behind_keeps_nobody_waiting(odd: Odd, tmp_path: Path) -> None:
    launcher = odd("sleep 1000 & echo $! > pid; echo done")
    try:
        done = run_index(launcher, ["image"], {}, on_told=lambda _: None, is_wanted=lambda: True)
        assert (done.returncode, done.stdout) == (0, b"done\n")
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
