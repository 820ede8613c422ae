"""What the driver's commands are forks of: it is one process, and nobody misses it for long."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from clipfs.errors import NodeFault
from clipfs.system.forking import Reap
from csi.launcher import Command, Launcher, _Gone, _Process
from tests.csi.conftest import Start
from tests.support.driver import Driver, commands, failure, servers
from tests.support.machine import needs_fuse
from tests.support.node import alive
from tests.support.processes import children, command_line, short_name
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    made = Launcher()
    with made.running():
        yield made


def process_of(pid: int) -> int:
    """What children of pid are forks of."""
    (found,) = (child for child in children(pid) if short_name(child) == "launcher")
    return found


def ls(launcher: Launcher, root: Path, stdout: int) -> Command:
    with open(os.devnull) as null:
        words = ["ls", "127.0.0.1:1/no", "/", "--root", str(root), "--json"]
        return launcher.start(words, stdin=null.fileno(), stdout=stdout, pass_fds=[])


def test_commands_run_side_by_side_and_leave_nothing(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (tmp_path / "out").open("w") as out:
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1
        before = os.listdir("/proc/self/fd")
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(ls, launcher, tmp_path, out.fileno()) for _ in range(8)]
            assert [one.result().wait() for one in done] == [1] * 8
    assert set(os.listdir("/proc/self/fd")) <= set(before)
    forks = process_of(os.getpid())
    assert children(forks) == []
    assert len(os.listdir(f"/proc/{forks}/task")) == 1, "a fork has one thread of its parent's"
    assert (tmp_path / "out").read_text().count('"error"') == 9


def test_it_is_started_again_when_it_has_died(launcher: Launcher, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        ls(launcher, tmp_path, out.fileno()).wait()
        first = process_of(os.getpid())
        os.kill(first, signal.SIGKILL)
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1
    assert process_of(os.getpid()) != first


def test_one_that_does_not_answer_is_replaced(launcher: Launcher, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        ls(launcher, tmp_path, out.fileno()).wait()
        frozen = process_of(os.getpid())
        os.kill(frozen, signal.SIGSTOP)
        assert launcher._process is not None
        launcher._process._control.settimeout(0.5)
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1
    assert not alive(frozen)


LATE = """#!{python}
import os, socket, sys
control = socket.socket(fileno=int(sys.argv[4]))
if os.fork():
    os.wait()
if control.recv(100) and control.recv(100):
    control.send(b"7")
"""
"""What answers a first request once a second one has come, whatever became of its parent."""


def test_an_answer_that_comes_too_late_is_not_taken_for_that_of_the_next_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(LATE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    process = _Process()
    process._control.settimeout(0.5)
    for _ in range(2):
        with pytest.raises(_Gone):
            process.ask(Reap(1), [])
    assert process.wait() == -signal.SIGKILL


@contextmanager
def most_descriptors(most: int) -> Iterator[None]:
    """Of this process, for the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_driver_may_have_more_descriptors_than_select_knows(
    launcher: Launcher, tmp_path: Path
) -> None:
    with most_descriptors(2000), ExitStack() as many, (tmp_path / "out").open("w") as out:
        for _ in range(1024):
            many.enter_context(open(os.devnull))
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1


def test_a_command_that_cannot_be_watched_is_not_left_running(
    launcher: Launcher, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out, open(os.devnull) as null:
        ls(launcher, tmp_path, out.fileno()).wait()
        words = ["ls", "127.0.0.1:1/no", "/", "--root", str(tmp_path), "--json"]
        free = os.dup(null.fileno())
        os.close(free)
        with most_descriptors(free), pytest.raises(NodeFault, match="Too many open files;"):
            launcher.start(words, stdin=null.fileno(), stdout=out.fileno(), pass_fds=[])
        assert children(process_of(os.getpid())) == []
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1


def test_it_is_started_as_soon_as_the_node_lets_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher()
    with (tmp_path / "out").open("w") as out, ExitStack() as until:
        free = os.dup(out.fileno())
        os.close(free)
        heard = ""

        def is_told() -> bool:
            nonlocal heard
            heard += "".join(capfd.readouterr())
            return "open files" in heard

        with most_descriptors(free + 1):
            until.enter_context(launcher.running())
            wait_for(is_told)
        assert "bug" not in heard
        assert ls(launcher, tmp_path, out.fileno()).wait() == 1


def test_a_driver_whose_parent_ignored_its_children_hears_how_commands_end(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # which exec(2) hands on
    try:
        launcher = Launcher()
        with launcher.running(), (tmp_path / "out").open("w") as out:
            assert ls(launcher, tmp_path, out.fileno()).wait() == 1
    finally:
        signal.signal(signal.SIGCHLD, before)


@needs_fuse
def test_a_command_dies_with_it_and_its_volume_may_come_again(
    driver: Driver, scripted: ScriptedRegistry
) -> None:
    name = f"{scripted.address}/app:1"
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(failure, lambda: driver.publish("pod", name))
        assert scripted.at_gate.wait(60)
        (command,) = commands(driver)
        os.kill(process_of(driver.process.pid), signal.SIGKILL)
        code, details = call.result()
    assert (code, "status -9" in details) == ("INTERNAL", True)
    wait_for(lambda: not alive(command))
    scripted.open_gate()
    assert (driver.publish("pod", name) / "hello").read_text() == "world\n"


@needs_fuse
def test_a_server_outlives_it_and_shows_what_it_serves(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.publish("pod", image, attributes={"front": "fuse"})
    (server,) = servers(tmp_path / "root")
    launcher = process_of(driver.process.pid)
    os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not alive(launcher))
    assert (target / "hello").read_text() == "world\n"
    words = command_line(Path(f"/proc/{server}")).rstrip(b"\0").split(b"\0")
    assert words[:2] == [b"clipfs", b"mount"]
    assert str(tmp_path / "root").encode() in words


def test_it_ends_with_a_driver_that_is_killed(start: Start) -> None:
    driver = start()
    wait_for(lambda: [one for one in children(driver.process.pid) if short_name(one) == "launcher"])
    launcher = process_of(driver.process.pid)
    driver.process.kill()
    wait_for(lambda: not alive(launcher))
