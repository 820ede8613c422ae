"""Forks workers off one small process that has their modules loaded: 4 ms each, not 90.

    with fork_server(modules):           # before threads, credentials and locks
        async with started(module, ...)  # of clipfs.system.workers: forks there

The process holds nothing of its parent's but stderr, ends with it, and has one thread, so that
a fork of it is sound.

Not here: how it forks (`clipfs.system.forking`), what a worker does (`clipfs.system.child`), and
how its parent talks to it.
"""

import contextlib
import errno
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import msgspec
import trio

from clipfs.system.child import ENVIRONMENT, keep_descriptors, name_process, run_job
from clipfs.system.forking import MOST_BYTES, MOST_FDS, Fork, Reap, forget_environment, forks_for

_PATIENCE_S = 10
"""For an answer; the first one waits until the modules are loaded."""

_open: list["ForkServer"] = []


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
        request = Fork((module, str(memory_bytes)), tuple(pass_fds))
        pid, pidfds = await self._ask(request, [stdin, stdout, *pass_fds])
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        (pidfd,) = pidfds
        return ForkedProcess(self, pid, pidfd)

    async def reap(self, pid: int) -> int:
        """The exit code of a worker that has ended; negative: the signal that killed it."""
        return (await self._ask(Reap(pid), []))[0]

    async def _ask(self, request: Fork | Reap, fds: Sequence[int]) -> tuple[int, list[int]]:
        async with self._turn:
            # an answer that nobody hears would be taken for the next one's: no other is waited for
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _PATIENCE_S) as scope:
                try:
                    socket.send_fds(self._control, [msgspec.json.encode(request)], fds)
                    await trio.lowlevel.wait_readable(self._control)
                    said, received, flags, _ = socket.recv_fds(self._control, MOST_BYTES, MOST_FDS)
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


def _serve(control: socket.socket, modules: Sequence[str]) -> NoReturn:
    """The body of the process: it ends with its parent."""
    os.setpgid(0, 0)
    name_process("fork server")
    _forget_parent(control)
    works = {name: importlib.import_module(name).work for name in modules}

    def run(words: Sequence[str]) -> NoReturn:
        module, memory_bytes = words
        run_job(works[module], module, int(memory_bytes))

    forks_for(control, run)


def _forget_parent(control: socket.socket) -> None:
    keep_descriptors([control.fileno()])
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 # to its end
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, workers would leave no status
    forget_environment(ENVIRONMENT)
