"""The process that forks others off itself, with what it has loaded; and how it is asked to.

    requests, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forks_for(requests, run)  # in a process with one thread; never returns

Each request is one message and gets one: a new process' pid, with a descriptor for it, or why
there is none, the error's number, negative; or how one has ended. The process holds nothing of
those that it forks, and ends with whoever asks.

Not here: who asks, and what is loaded (`clipfs.system.fork_server`, and clip-csi's launcher).
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

MOST_FDS = 16
MOST_BYTES = 1 << 16
"""Of a message."""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Fork a process that runs words. The message brings its stdin, its stdout, and what becomes
    those numbers."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


class Reap(msgspec.Struct, frozen=True, tag=True):
    """Say how a process ended that has ended: its exit code, or the signal, negative."""

    pid: int


def forks_for(control: socket.socket, run: Callable[[Sequence[str]], NoReturn]) -> NoReturn:
    """Do as control says until its other end is closed.

    run  is called in each process, with its words
    """
    gc.freeze()
    while True:
        said, fds, _, _ = socket.recv_fds(control, MOST_BYTES, MOST_FDS)
        if not said:
            os._exit(0)
        request = msgspec.json.decode(said, type=Fork | Reap)
        if isinstance(request, Reap):
            _, status = os.waitpid(request.pid, 0)
            control.send(msgspec.json.encode(os.waitstatus_to_exitcode(status)))
            continue
        pid = _forked()
        if pid == 0:
            os.setpgid(0, 0)
            control.close()
            _place(fds, (0, 1, *request.numbers))
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 # to its end
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            run(request.words)
        pidfds = []
        if pid > 0:
            pidfds = [os.pidfd_open(pid)]
            with contextlib.suppress(PermissionError):  # it has, and is another program by now
                os.setpgid(pid, pid)
        socket.send_fds(control, [msgspec.json.encode(pid)], pidfds)
        for fd in (*pidfds, *fds):
            os.close(fd)


def _forked() -> int:
    """As fork(2); the error's number, negative, if there cannot be one more process."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def show_words(words: Sequence[str]) -> None:
    """Have /proc/PID/cmdline, and so ps, show words, as far as those fit that this process was
    started with."""
    begin, end = _area(45)  # arg_start, arg_end of proc_pid_stat(5)
    said = b"".join(word.encode() + b"\0" for word in words)[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, said, len(said))


def forget_environment(kept: Sequence[str]) -> None:
    """Drop what is not in kept, from /proc/PID/environ too: a proxy may have a password."""
    found = {name: os.environ[name] for name in kept if name in os.environ}
    os.environ.clear()
    begin, end = _area(47)  # env_start, env_end
    ctypes.memset(begin, 0, end - begin)
    os.environ.update(found)


def _area(field: int) -> tuple[int, int]:
    """Two numbers of /proc/self/stat, of which the state is the first that is counted."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[field]), int(fields[field + 1])


def _place(fds: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each descriptor its number, though another one may have that now."""
    above = 1 + max(numbers)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)
