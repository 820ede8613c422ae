"""Processes by pid and start time, in this boot: a pid alone may be another's by now."""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ_BYTES = 1 << 16
"""What a pipe holds."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """This boot's id, 36 characters: what an earlier boot said no longer holds."""
    return _BOOT_ID.read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which pid started; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def is_alive(pid: int, started: int) -> bool:
    return start_time(pid) == started


def name_of(pid: int) -> str:
    """`<pid>.<start time>`: what a process signs its files with."""
    return f"{pid}.{start_time(pid)}"


def is_running(name: str) -> bool:
    """Whether the process of that `name_of` is alive; False for what is no such name."""
    pid, _, started = name.partition(".")
    return pid.isdecimal() and started.isdecimal() and is_alive(int(pid), int(started))


def wait_for_end(pid: int, started: int, *, within_s: float) -> bool:
    """Whether the process has ended, waiting for it at most within_s."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(pid, started):
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    finally:
        os.close(fd)


@contextmanager
def end_of(pid: int) -> Iterator[int]:
    """A descriptor that is readable once the process, a child of ours, has ended."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def said_now(pipe: int) -> bytes:
    """What is in a pipe that does not block; nothing at its end, too."""
    try:
        return os.read(pipe, READ_BYTES)
    except BlockingIOError:
        return b""
