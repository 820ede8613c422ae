"""Every system call by which a process tree changes a folder, seen as it is made, and spoilt.

    with watched(root) as points, run_driver(..., under=points) as driver:
        points.watch(Fault(at=7, error=errno.EIO))
        ...
        assert points.met is not None
        points.calls    # all of them, in order, the spoilt one included

The calls of one thread come in their order, those of several as the kernel hands them out.
Source: seccomp_unotify(2). Only x86-64.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.filtered import CALLS

_NAMES = {number: name for name, number in CALLS.items()}
_PATH_ARGUMENT = {
    "openat": 1, "rename": 1, "link": 1, "mkdir": 0, "chmod": 0, "truncate": 0, "symlink": 1,
    "mkdirat": 1, "fchmodat": 1, "utimensat": 1, "linkat": 3, "renameat2": 3,
}  # fmt: skip # a name and its number stay together
"""Which argument is the path; of two, the one that is made. Of other calls, one is a descriptor."""

_DESCRIPTOR_ARGUMENT = {"copy_file_range": 2}
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_GO_ON = 1
_PATH_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One call: by which process, its name, and the path below the folder."""

    pid: int
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is spoilt: call number `at`, from 0; with `stays`, each one after it too.

    error  what it answers; None: its process is killed
    """

    at: int
    error: int | None = None
    stays: bool = False


@dataclass(slots=True)
class WritePoints:
    """`calls` since `watch`; `met` is the first one that was spoilt. `prefix` starts a command."""

    root: Path
    starter: socket.socket
    calls: list[Call] = field(default_factory=list)
    met: Call | None = None
    _fault: Fault | None = None
    _listeners: list[threading.Thread] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def prefix(self) -> list[str]:
        """Words that go before a command, whose process keeps its pid."""
        program = Path(__file__).with_name("filtered.py")
        return [sys.executable, str(program), str(self.starter.fileno())]

    def watch(self, fault: Fault | None = None) -> None:
        """Count from 0 again, and spoil as fault says."""
        with self._guard:
            self.calls, self.met, self._fault = [], None, fault

    def listen(self, ours: socket.socket) -> None:
        """Answer the calls of each process that is started with `prefix`."""
        while not self._ended.is_set():
            with suppress(TimeoutError):
                _, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
                for descriptor in descriptors:
                    thread = threading.Thread(target=self._answer_all, args=(descriptor,))
                    thread.start()
                    self._listeners.append(thread)

    def end(self) -> None:
        self._ended.set()
        for thread in self._listeners:
            thread.join()

    def _answer_all(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while not self._ended.is_set():
                for _, events in poll.poll(100):
                    if not events & select.POLLIN:
                        return  # its last process has ended
                    self._answer(listener)
        finally:
            os.close(listener)

    def _answer(self, listener: int) -> None:
        request = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, request)
            number, thread, _, call, _, _, *arguments = _REQUEST.unpack(request)
            error = self._judged(thread, _NAMES[call], arguments)
            answer = _ANSWER.pack(number, 0, -error, 0 if error else _GO_ON)
            fcntl.ioctl(listener, _SEND, bytearray(answer))
        except OSError as lost:
            if lost.errno not in (errno.ENOENT, errno.EINTR):  # the caller was killed meanwhile
                raise

    def _judged(self, thread: int, name: str, arguments: list[int]) -> int:
        """The error with which the call is answered; 0: it goes on."""
        path = _path_of(thread, name, arguments)
        if path is None or not path.startswith(f"{self.root}/"):
            return 0
        if _changes_nothing(name, path, arguments):
            return 0
        with self._guard:
            pid = _process_of(thread)
            call, place = Call(pid, name, path.removeprefix(f"{self.root}/")), len(self.calls)
            self.calls.append(call)
            fault = self._fault
            if fault is None or place < fault.at or (place > fault.at and not fault.stays):
                return 0
            self.met = self.met or call
        if fault.error is not None:
            return fault.error
        os.kill(pid, signal.SIGKILL)
        return errno.EINTR


def _changes_nothing(name: str, path: str, arguments: list[int]) -> bool:
    """Whether it would make what is there already."""
    if name == "openat":
        flags = arguments[2]
        is_unnamed = flags & os.O_TMPFILE == os.O_TMPFILE
        return os.path.exists(path) and not flags & os.O_TRUNC and not is_unnamed
    return name == "mkdir" and os.path.isdir(path)


def _path_of(thread: int, name: str, arguments: list[int]) -> str | None:
    """None if the process has gone."""
    try:
        if name not in _PATH_ARGUMENT:
            descriptor = arguments[_DESCRIPTOR_ARGUMENT.get(name, 0)]
            return os.readlink(f"/proc/{thread}/fd/{descriptor}")
        place = _PATH_ARGUMENT[name]
        if not arguments[place]:  # utimensat of a descriptor
            return os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
        text = _text_at(thread, arguments[place])
        folder = ctypes.c_int32(arguments[place - 1]).value if name.endswith("at") else -1
        base = f"fd/{folder}" if folder >= 0 else "cwd"
        return text if text.startswith("/") else f"{os.readlink(f'/proc/{thread}/{base}')}/{text}"
    except OSError:
        return None


def _text_at(thread: int, address: int) -> str:
    found = b""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        while b"\0" not in found and len(found) < _PATH_BYTES:
            # to the page's end: what follows may not be mapped
            piece = memory.read(_PATH_BYTES - (address + len(found)) % _PATH_BYTES)
            if not piece:
                raise ProcessLookupError(thread, "has ended while it was read")
            found += piece
    return os.fsdecode(found.partition(b"\0")[0])


def _process_of(thread: int) -> int:
    for line in Path(f"/proc/{thread}/status").read_text().splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise LookupError(thread)


@contextmanager
def watched(root: Path) -> Iterator[WritePoints]:
    """The points of the commands that the block starts; when it ends, none of them may live."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.settimeout(0.1)
        points = WritePoints(root, theirs)
        listening = threading.Thread(target=points.listen, args=(ours,))
        listening.start()
        try:
            yield points
        finally:
            points.end()
            listening.join()
