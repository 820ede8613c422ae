"""What forks workers: it has nothing of its parent's, and is not missed when it dies.

That a forked worker behaves as an executed one does is in `test_workers.py`.
"""

import errno
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from clipfs import errors
from clipfs.system.fork_server import fork_server
from clipfs.system.forking import MOST_BYTES, MOST_FDS, Fork
from clipfs.system.workers import started
from tests.support.node import alive
from tests.support.processes import children, command_line, descendants, short_name
from tests.support.wait import wait_for

WORKER = "tests.system.odd_worker"
REPOSITORY = Path(__file__).parents[2]

COMMAND = """
import os, signal
from clipfs.system.fork_server import fork_server

with fork_server([%r]):
    print(flush=True)
    signal.pause()
"""


@pytest.fixture
def server() -> Iterator[int]:
    """The pid of one that this process has open."""
    before = set(children("self"))
    with fork_server([WORKER]):
        (pid,) = set(children("self")) - before
        yield pid


async def result(job: bytes, *fds: int) -> bytes:
    async with started(WORKER, memory_bytes=1 << 30, pass_fds=fds) as worker:
        return await worker.run(job, on_line=lambda _: None)


def is_closed(folder: Path, pid: int) -> bool:
    """Whether the process has nothing of folder open."""
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed just now
            opened.append(os.readlink(link))
    assert len(opened) >= 3
    return str(folder) not in " ".join(opened)


async def test_workers_come_of_it_side_by_side_and_leave_it_nothing(server: int) -> None:
    await result(b"it has forgotten its parent's descriptors then")
    before = os.listdir(f"/proc/{server}/fd"), os.listdir("/proc/self/fd")
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(result, b"job")
    assert children(server) == []
    assert (os.listdir(f"/proc/{server}/fd"), os.listdir("/proc/self/fd")) == before


async def test_a_worker_is_its_child_in_a_group_of_its_own_and_named(server: int) -> None:
    async with started(WORKER, memory_bytes=1 << 30):
        (worker,) = children(server)
        assert os.getpgid(worker) == worker != os.getpgid(0)
        assert os.getpgid(server) == server
        await trio.to_thread.run_sync(wait_for, lambda: short_name(worker) == WORKER[:15])
        assert short_name(server) == "fork server"


async def test_descriptors_have_the_numbers_that_they_have_here(
    server: int, tmp_path: Path
) -> None:
    files = [(tmp_path / name).open("w+") for name in "abcd"]
    try:
        # those that it is likely to give to what it receives, in another order
        fds = [
            fcntl.fcntl(file, fcntl.F_DUPFD, low)
            for low, file in zip((7, 5, 4, 6), files, strict=True)
        ]
        assert await result(b"names itself to " + b" ".join(b"%d" % fd for fd in fds), *fds)
        for fd, file in zip(fds, files, strict=True):
            os.close(fd)
            file.seek(0)
            assert file.read() == str(fd)
    finally:
        for file in files:
            file.close()


async def test_nothing_else_of_the_parent_s_is_open_there(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        before = set(children("self"))
        with fork_server([WORKER]):
            (second,) = set(children("self")) - before
            async with started(WORKER, memory_bytes=1 << 30):
                (worker,) = children(second)
                for pid in (second, worker):
                    await trio.to_thread.run_sync(wait_for, partial(is_closed, tmp_path, pid))


async def test_a_start_that_is_given_up_leaves_its_answer_to_nobody(server: int) -> None:
    os.kill(server, signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(result, b"job")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        os.kill(server, signal.SIGCONT)
    with pytest.raises(errors.NodeFault, match="SIGKILL"):
        await result(b"killed")


async def test_a_worker_starts_without_it_once_it_has_died(server: int) -> None:
    os.kill(server, signal.SIGKILL)
    assert await result(b"job") == b"JOB"


async def test_a_worker_that_it_had_forked_when_it_died_takes_nobody_s_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def die(_: int) -> None:  # between the fork and the answer
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", die)
        opened = fork_server([WORKER])
        opened.__enter__()
    try:
        with trio.fail_after(30):
            assert await result(b"job") == b"JOB"
    finally:
        opened.__exit__(None, None, None)


async def test_a_worker_at_work_does_not_need_it(server: int) -> None:
    async with started(WORKER, memory_bytes=1 << 30) as worker:
        os.kill(server, signal.SIGKILL)
        assert await worker.run(b"job", on_line=lambda _: None) == b"JOB"


async def test_a_worker_that_dies_after_it_is_told_of_all_the_same(server: int) -> None:
    def on_line(_: bytes) -> None:
        (worker,) = children(server)
        os.kill(server, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)

    async with started(WORKER, memory_bytes=1 << 30) as worker:
        with pytest.raises(errors.NodeFault, match="nobody heard of what"):
            await worker.run(b"waits", on_line=on_line)


def test_it_ends_with_its_parent_however_that_dies() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND % WORKER],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (server,) = descendants(parent.pid)
        parent.kill()
        assert parent.stdout.read() == b""  # nobody holds it any more
    wait_for(lambda: not alive(server))


def test_a_module_that_cannot_be_loaded_leaves_no_process(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = children("self")

    async def main() -> bytes:
        return await result(b"job")

    with fork_server(["tests.system.no_such_worker"]):
        wait_for(lambda: b"" in {command_line(Path(f"/proc/{pid}")) for pid in children("self")})
        assert trio.run(main) == b"JOB"  # executed
    assert children("self") == before
    assert "no_such_worker" in capfd.readouterr().err


async def test_a_worker_has_its_memory_beside_what_its_parent_has_taken() -> None:
    with mmap.mmap(-1, 2 << 30), fork_server([WORKER]):
        assert await result(b"job") == b"JOB"


FULL = """
import ctypes, os, socket, sys
from clipfs.system.forking import forks_for

assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID
if os.fork() == 0:
    os._exit(0)
os.wait()  # a namespace whose first process has ended lets nobody fork
forks_for(socket.socket(fileno=int(sys.argv[1])), lambda words: os._exit(0))
"""


def test_it_outlives_a_fork_that_the_node_has_no_process_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(os.devnull) as null:
        words = [sys.executable, "-c", FULL, str(theirs.fileno())]
        with subprocess.Popen(words, pass_fds=[theirs.fileno()], cwd=REPOSITORY) as process:
            theirs.close()
            for _ in range(2):
                request = msgspec.json.encode(Fork((), ()))
                socket.send_fds(ours, [request], [null.fileno(), null.fileno()])
                said, fds, _, _ = socket.recv_fds(ours, MOST_BYTES, MOST_FDS)
                assert (msgspec.json.decode(said), fds) == (-errno.ENOMEM, [])
            ours.close()
            assert process.wait() == 0
