"""Processes by pid and start time: a pid alone may be another's by now."""

import os
import select
from pathlib import Path


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
