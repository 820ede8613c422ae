"""Sockets and programs of a test in another network namespace than its own."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # sched.h
_NAMED = Path("/run/netns")
_OWN = Path("/proc/thread-self/ns/net")


@contextmanager
def in_network(name: str) -> Iterator[None]:
    """What this thread opens or starts in the block, threads too, is in that namespace for good."""
    with _OWN.open() as before, (_NAMED / name).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(fd: int) -> None:
    """setns(2); `os` has it from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
