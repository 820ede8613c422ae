"""Forks workers off one small process that has their modules loaded: 4 ms each, not 90.

    with fork_server(modules):           # before threads, credentials and locks
        async with started(module, ...)  # of clipfs.system.workers: forks there

The process holds nothing of its parent's but stderr, ends with it, and has one thread, so that
a fork of it is sound. It only forks and reaps; each request and each answer is one message.

Not here: what a worker does (`clipfs.system.child`), and how its parent talks to it.
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import trio

from clipfs.system.child import ENVIRONMENT, keep_descriptors, name_process, run_job

_MOST_FDS = 16
_MOST_BYTES = 1 << 12

_PATIENCE_S = 10
"""For an answer; the first one waits until the modules are loaded."""

_open: list["ForkServer"] = []


class _Fork(msgspec.Struct, frozen=True, tag=True):
    """Fork a worker. The message brings its stdin, its stdout, and what becomes those numbers."""

    module: str
    memory_bytes: int
    numbers: tuple[int, ...]


class _Reap(msgspec.Struct, frozen=True, tag=True):
    """Say how a worker ended that has ended."""

    pid: int


class ForkServerGone(Exception):
    """It has died; workers have to be started without it."""


class ForkedProcess:
    """A worker, as its parent's parent sees it: like a `trio.Process`."""

    def __init__(self, server: "ForkServer", pid: int, pidfd: int) -> None:
        self._server = server
        self._pid = pid
        self._pidfd = pidfd
        self._has_ended = False
        self._exit_code: int | None = None

    def kill(self) -> None:
        """SIGKILL, though it may have ended."""
        if not self._has_ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None if nobody can tell."""
        if not self._has_ended:
            await trio.lowlevel.wait_readable(self._pidfd)
            with contextlib.suppress(ForkServerGone):
                self._exit_code = await self._server.reap(self._pid)
            self._has_ended = True
            os.close(self._pidfd)
        return self._exit_code


class ForkServer:
    """The parent's edge of the process; see `fork_server`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._turn = trio.Lock()

    async def fork(
        self, module: str, *, memory_bytes: int, stdin: int, stdout: int, pass_fds: Sequence[int]
    ) -> ForkedProcess:
        """A new worker, which has pass_fds under the numbers they have here."""
        request = _Fork(module, memory_bytes, tuple(pass_fds))
        pid, (pidfd,) = await self._ask(request, [stdin, stdout, *pass_fds])
        return ForkedProcess(self, pid, pidfd)

    async def reap(self, pid: int) -> int:
        """The exit code of a worker that has ended; negative: the signal that killed it."""
        return (await self._ask(_Reap(pid), []))[0]

    async def _ask(self, request: _Fork | _Reap, fds: Sequence[int]) -> tuple[int, list[int]]:
        async with self._turn:
            # an answer that nobody hears would be taken for the next one's: no other is waited for
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _PATIENCE_S) as scope:
                try:
                    socket.send_fds(self._control, [msgspec.json.encode(request)], fds)
                    await trio.lowlevel.wait_readable(self._control)
                    said, received, flags, _ = socket.recv_fds(
                        self._control, _MOST_BYTES, _MOST_FDS
                    )
                except ConnectionError as error:
                    raise ForkServerGone from error
            if scope.cancelled_caught:
                with contextlib.suppress(OSError):  # it may have died just now
                    self._control.shutdown(socket.SHUT_RDWR)
                raise ForkServerGone
        if not said:
            raise ForkServerGone
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return msgspec.json.decode(said, type=int), received


@contextlib.contextmanager
def fork_server(modules: Sequence[str]) -> Iterator[None]:
    """Have workers of modules forked until the block ends; to be entered with one thread only."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _serve(theirs, modules)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:  # the caller's stack is not this process's to unwind
            os._exit(1)
    with contextlib.suppress(ProcessLookupError):  # dead, where SIGCHLD is ignored
        os.setpgid(pid, pid)  # Ctrl-C is for this process, which ends it
    theirs.close()
    server = ForkServer(ours)
    _open.append(server)
    try:
        yield
    finally:
        _open.remove(server)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # SIGCHLD is ignored
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ours.close()


def open_fork_server() -> ForkServer | None:
    """The one that this process has open."""
    return _open[-1] if _open else None


def _serve(control: socket.socket, modules: Sequence[str]) -> None:
    """The body of the process: it ends with its parent, and never returns."""
    os.setpgid(0, 0)
    name_process("fork server")
    _forget_parent(control)
    works = {name: importlib.import_module(name).work for name in modules}
    gc.freeze()
    while True:
        said, fds, _, _ = socket.recv_fds(control, _MOST_BYTES, _MOST_FDS)
        if not said:
            os._exit(0)
        request = msgspec.json.decode(said, type=_Fork | _Reap)
        if isinstance(request, _Reap):
            _, status = os.waitpid(request.pid, 0)
            control.send(msgspec.json.encode(os.waitstatus_to_exitcode(status)))
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            _place(fds, (0, 1, *request.numbers))
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 # to its end
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            run_job(works[request.module], request.module, request.memory_bytes)
        os.setpgid(pid, pid)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [msgspec.json.encode(pid)], [pidfd])
        for fd in (pidfd, *fds):
            os.close(fd)


def _forget_parent(control: socket.socket) -> None:
    keep_descriptors([control.fileno()])
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 # to its end
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, workers would leave no status
    _forget_environment()


def _forget_environment() -> None:
    """Drop what is not in ENVIRONMENT, from /proc/PID/environ too: a proxy may have a password."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    os.environ.clear()
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])  # env_start, env_end of proc_pid_stat(5)
    ctypes.memset(begin, 0, end - begin)
    os.environ.update(kept)


def _place(fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each descriptor its number, though another one may have that now."""
    above = 1 + max(numbers)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)
