"""A server is left behind: it holds nothing of its caller's, and its failure is the caller's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfs.mount import syscalls
from clipfs.mount.daemon import KEPT_LOGS, forget_old_logs
from tests.support.machine import needs_fuse
from tests.support.wait import wait_for

CALLER = """
import os, signal, sys, time
from pathlib import Path
from clipfs import errors
from clipfs.mount.daemon import leave_behind

def ready(on_ready):
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    on_ready()
    signal.sigwait([signal.SIGTERM])

def fails(on_ready):
    raise errors.CorruptImage("three words here")

def complains(on_ready):
    print("three words here", file=sys.stderr)
    raise errors.NodeFault("no")

def finds_no_room(on_ready):
    raise OSError(28, "No space left on device", "/a/record")

def fails_unexpectedly(on_ready):
    raise ValueError("a bug")

def dies(on_ready):
    os.kill(os.getpid(), signal.SIGKILL)

def returns(on_ready):
    pass

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
kept = open("/etc/hostname"), open("/etc/hosts")
for file in kept:
    os.set_inheritable(file.fileno(), True)
try:
    folder = Path(sys.argv[2]) if sys.argv[2] else None
    print(leave_behind(globals()[sys.argv[1]], log_folder=folder))
except errors.ClipError as error:
    print(type(error).__name__, error)
"""


def call(how: str, log_folder: str) -> subprocess.CompletedProcess[str]:
    """Ends when the caller has, whatever the server holds: else its pipe would stay open."""
    return subprocess.run(
        [sys.executable, "-c", CALLER, how, log_folder],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    pid = int(call("ready", str(tmp_path / "log")).stdout)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_the_server_holds_none_of_its_callers_descriptors(server: int, tmp_path: Path) -> None:
    held = {int(one.name): os.readlink(one) for one in Path(f"/proc/{server}/fd").iterdir()}
    log = str(tmp_path / "log" / f"{server}.log")
    assert held == {0: "/dev/null", 1: "/dev/null", 2: log}


def test_the_server_is_in_a_session_and_a_folder_of_its_own(server: int) -> None:
    assert os.getsid(server) == server
    assert os.readlink(f"/proc/{server}/cwd") == "/"


def test_the_server_logs_to_its_own_file(server: int, tmp_path: Path) -> None:
    log = tmp_path / "log" / f"{server}.log"
    assert log.read_text() == "to stderr\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_of_ended_servers_the_last_logs_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    for number in range(KEPT_LOGS + 5):
        log = folder / f"{4194304 + number}.log"  # above the kernel's highest pid
        log.touch()
        os.utime(log, (number, number))
    living = folder / f"{os.getpid()}.log"
    living.touch()
    os.utime(living, (0, 0))
    pid = int(call("ready", str(folder)).stdout)
    os.kill(pid, signal.SIGTERM)
    left = {int(log.stem) for log in folder.iterdir()} - {pid, os.getpid()}
    assert left == {4194304 + number for number in range(5, KEPT_LOGS + 5)}
    assert living.exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param("fails", "CorruptImage three words here", id="its-error-is-the-callers"),
        pytest.param("finds_no_room", "DiskFull /a/record: No space left on device; free space",
                     id="a-full-disk"),
        pytest.param("fails_unexpectedly", "ClipError ValueError('a bug')", id="a-bug-too"),
        pytest.param("dies", "NodeFault the server ended before its mount was ready (wait status 9",
                     id="killed"),
        pytest.param("returns", "NodeFault the server ended before", id="ended"),
    ],
)  # fmt: skip
def test_a_failure_before_ready_is_the_callers(how: str, said: str, tmp_path: Path) -> None:
    assert call(how, str(tmp_path)).stdout.startswith(said)


@needs_fuse
def test_a_log_that_cannot_be_made_is_told_to_the_caller(tmp_path: Path) -> None:
    syscalls.mount("tmpfs", tmp_path, "tmpfs", syscalls.MS_RDONLY, "")
    try:
        done = call("ready", str(tmp_path))
    finally:
        syscalls.detach(tmp_path)
    assert done.stdout.startswith(f"NodeFault {tmp_path}/")
    assert "Read-only file system" in done.stdout


def test_a_server_without_a_log_of_its_own_says_it_to_the_callers_stderr() -> None:
    assert "three words here" in call("complains", "").stderr


def test_what_is_odd_among_the_logs_or_gone_by_now_fails_no_mount(tmp_path: Path) -> None:
    ended = [2**30 + number for number in range(KEPT_LOGS + 3)]
    for age, pid in enumerate(ended):
        (tmp_path / f"{pid}.log").touch()
        os.utime(tmp_path / f"{pid}.log", (1000 + age, 1000 + age))
    (tmp_path / "notes.log").touch()
    (tmp_path / "1000000001.log").symlink_to("gone")
    (tmp_path / "1000000002.log").mkdir()
    os.utime(tmp_path / "1000000002.log", (1, 1))
    forget_old_logs(tmp_path)
    left = {f"{pid}.log" for pid in ended[-KEPT_LOGS:]}
    assert set(os.listdir(tmp_path)) == {*left, "notes.log", "1000000001.log", "1000000002.log"}
