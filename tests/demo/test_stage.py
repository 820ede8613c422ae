"""The stage finds what was started and mounted in its name, and takes all of it away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.stage import NotAsPromised, Stage, Stopped, staged, wait_for
from tests.support.machine import needs_fuse

DETACHED = """\
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
def test_a_process_that_detached_itself_is_found_and_ended(
    manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.stage.END_S", 0.5)
    with staged() as stage:
        service = stage.start("server", sys.executable, "-c", DETACHED, manner)
        pid = int(wait_for(service.log.read_text, "it has detached itself"))
        service.process.wait()
        assert stage.processes() == [pid]
    assert stage.processes() == []


@needs_fuse
def test_mounts_upon_mounts_are_taken_away_with_the_folder() -> None:
    with staged() as stage:
        for point in (stage.folder / "a", stage.folder / "a/b", stage.folder / "a"):
            point.mkdir(exist_ok=True)
            stage.run("mount", "-t", "tmpfs", "clip-demo-test", str(point))
        assert len(stage.mounts()) == 3
        held = (stage.folder / "a/file").open("w")
    with held:
        assert stage.mounts() == []
        assert not stage.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_block_and_clears_the_stage(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=number.name) as stopped, staged() as stage:
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number
    assert not stage.folder.exists()
    assert signal.getsignal(number) is before


def test_another_stages_processes_are_left_alone() -> None:
    with staged() as mine, staged() as other:
        process = other.start("server", "sleep", "600").process
        mine.clear()
        assert other.processes() == [process.pid]


def test_a_program_that_fails_is_named_with_its_words() -> None:
    with staged() as stage, pytest.raises(NotAsPromised, match=r"ls /none ended with 2: .*none"):
        stage.run("ls", "/none")


def test_a_service_that_ends_at_once_is_named_with_its_last_words() -> None:
    with staged() as stage:
        service = stage.start("node X", "sh", "-c", "echo no such option; exit 2")
        with pytest.raises(NotAsPromised, match="node X ended at once: no such option"):
            service.wait_for(lambda: service.process.poll() is None and None)


def test_what_does_not_come_is_told() -> None:
    with pytest.raises(NotAsPromised, match="not so after 0 s: the moon is full"):
        wait_for(lambda: None, "the moon is full", within_s=0)


@pytest.mark.parametrize("failure", [None, Stopped(signal.SIGINT), NotAsPromised("no")])
def test_what_cannot_be_cleared_is_told_whatever_else_went_wrong(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "clear", lambda self: [f"folder {self.folder}"])
    words = f"^{failure}; then left behind: folder" if failure else "^left behind: folder"
    with pytest.raises(NotAsPromised, match=words), staged() as stage:
        end_with(failure)
    monkeypatch.undo()
    assert stage.clear() == []


def test_stages_do_not_see_the_marks_of_processes_that_ended() -> None:
    with staged() as stage:
        subprocess.run(["true"], env=stage._environment(), check=True)
        assert stage.processes() == []
        assert Path(stage.folder).exists()


def end_with(failure: Exception | None) -> None:
    if failure:
        raise failure
