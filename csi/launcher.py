"""Starts `clipfs` commands for the driver, as forks of one process (`csi.launch`).

    with launcher.running():
        command = launcher.start(words, stdin=..., stdout=..., pass_fds=...)
        ...
        command.wait()

Any thread may start one. Should the process die, what it has forked dies with it, and another one
takes its place.

Not here: what a command is told, and what it says (`csi.command`).
"""

import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import msgspec

from clipfs import errors
from clipfs.log import log
from clipfs.system.forking import MOST_BYTES, MOST_FDS, Fork, Reap
from csi.periodic import Periodic

ANSWER_S = 20
"""For an answer of the process, the first of which waits until it has loaded what it needs."""

START_S = 60
"""For a command to start, while processes die."""

AGAIN_S = 1
"""Until one that has died is followed by the next."""

ROOM_BYTES = 8 << 10
"""For a command's words, where ps looks for them."""


class _Gone(Exception):
    """The process has died, or does not answer."""


@dataclass(slots=True)
class Command:
    """A command that was started: the leader of its process group.

    end  a descriptor that is readable once it has ended
    """

    process: "_Process"
    pid: int
    end: int

    def interrupt(self) -> None:
        """As ^C does; it may have ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.end, signal.SIGINT)

    def kill(self) -> None:
        """End it and what it has started, but for a server that it has left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, once it has ended; negative for the signal that killed it."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.end, selectors.EVENT_READ)
                selector.select()
            return self.process.ask(Reap(self.pid), [])[0]
        except _Gone:
            return -signal.SIGKILL  # it has died with that
        finally:
            os.close(self.end)


class _Process:
    """One process that forks, and the way to ask it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        with ExitStack() as undo:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(self._control)
            with theirs:
                self._process = _launched(theirs.fileno())
            self._control.settimeout(ANSWER_S)
            undo.pop_all()

    def ask(self, request: Fork | Reap, fds: Sequence[int]) -> tuple[int, list[int]]:
        """The number that it answers, and the descriptors that come with it.

        Raises  _Gone; then it ends, and so does all that it has forked
        """
        with self._turn:
            if self._control.fileno() < 0:
                raise _Gone
            try:
                socket.send_fds(self._control, [msgspec.json.encode(request)], fds)
                said, received, _, _ = socket.recv_fds(self._control, MOST_BYTES, MOST_FDS)
            except (ConnectionError, TimeoutError) as error:
                self.kill()
                with suppress(OSError):  # an answer by now would be taken for another request's
                    self._control.shutdown(socket.SHUT_RDWR)
                raise _Gone from error
        if not said:
            raise _Gone
        return msgspec.json.decode(said, type=int), received

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """Until it has ended, by itself or since it was told to; its exit code."""
        code = self._process.wait()
        with self._turn:
            self._control.close()
        return code


def _launched(control: int) -> subprocess.Popen[bytes]:
    words = ["-m", "csi.launch", str(os.getpid()), str(control), "-" * ROOM_BYTES]
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[control],
        start_new_session=True,
    )


def _started(process: _Process, pid: int, received: Sequence[int]) -> Command:
    """What process answered to a `Fork`; a command that nobody can watch is not left running."""
    if pid < 0:
        raise _refused(-pid)
    if not received:  # there was no room for it here
        os.killpg(pid, signal.SIGKILL)
        process.ask(Reap(pid), [])
        raise _refused(errno.EMFILE)
    return Command(process, pid, *received)


def _refused(number: int) -> errors.NodeFault:
    return errors.NodeFault(
        f"no process can be started to mount images: {os.strerror(number)}; raise the limit that "
        "the driver's container, or the node, has reached"
    )


class Launcher:
    """See the module; `running` before `start`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._process: _Process | None = None
        self._ending = False
        self._keeper = Periodic("launcher", self._keep)

    @contextmanager
    def running(self) -> Iterator[None]:
        """All that was started dies with the block, but for servers that were left behind."""
        with self._keeper.running():
            try:
                yield
            finally:
                self._end()

    def start(
        self, words: Sequence[str], *, stdin: int, stdout: int, pass_fds: Sequence[int]
    ) -> Command:
        """`clipfs` with words, which has pass_fds under the numbers that they have here.

        Raises  NodeFault if the node has no process, or no descriptor, for one more
        """
        deadline = time.monotonic() + START_S
        while (process := self._at_hand(deadline)) is not None:
            try:
                request = Fork(tuple(words), tuple(pass_fds))
                return _started(process, *process.ask(request, [stdin, stdout, *pass_fds]))
            except _Gone:
                self._forget(process)
        raise errors.NodeFault(
            "the process that mounts images does not start; see the driver's log"
        )

    def _at_hand(self, deadline: float) -> _Process | None:
        """The process, waiting until there is one."""
        with self._changed:
            while self._process is None:
                left_s = deadline - time.monotonic()
                if self._ending or not self._changed.wait(max(left_s, 0)):
                    return None
            return self._process

    def _keep(self) -> float:
        """One process from its begin to its end. In the keeper's thread, with which it dies."""
        try:
            process = _Process()
        except OSError as error:
            log.error("what launches mounts cannot be started", error=str(error))
            return AGAIN_S
        with self._changed:
            self._process = process
            if self._ending:
                process.kill()
            self._changed.notify_all()
        code = process.wait()
        self._forget(process)
        if not self._ending:
            log.error("what launches mounts has ended, it is started again", code=code)
        return AGAIN_S

    def _forget(self, process: _Process) -> None:
        with self._changed:
            if self._process is process:
                self._process = None

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()
