"""How much disk the objects use, known without a look at each: a few bytes in a file.

All processes that serve a folder share it, under its lock. It is marked dirty while it is being
changed: a process that takes the lock and finds the mark knows that the one before it was killed
in between, and counts all objects.
"""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FORM = struct.Struct("<?qq")


@dataclass(slots=True)
class Usage:
    """bytes: what all objects cost. evictions: layers evicted, ever."""

    bytes: int = 0
    evictions: int = 0


class Ledger:
    def __init__(self, path: Path, count: Callable[[], int]) -> None:
        """count  the true number of bytes, however long that takes"""
        self._path = path
        self._count = count

    def read(self) -> Usage:
        """What it says now; for information, since it may be changing."""
        with self._path.open("rb") as file:
            return _read(file.fileno())[1]

    @contextmanager
    def locked(self) -> Iterator[Usage]:
        """While the block lasts, nobody changes it, and no object comes or goes."""
        with self._locked() as fd:
            yield self._recovered(fd)

    @contextmanager
    def change(self) -> Iterator[Usage]:
        """As `locked`; what the block leaves in the value is written, though it raise."""
        with self._locked() as fd:
            usage = self._recovered(fd)
            _write(fd, usage, dirty=True)
            try:
                yield usage
            finally:
                _write(fd, usage, dirty=False)

    def recount(self) -> None:
        """Count all objects, whatever it says."""
        with self._locked() as fd:
            self._recounted(fd, _read(fd)[1])

    def _recovered(self, fd: int) -> Usage:
        dirty, usage = _read(fd)
        return self._recounted(fd, usage) if dirty else usage

    def _recounted(self, fd: int, usage: Usage) -> Usage:
        usage.bytes = self._count()
        _write(fd, usage, dirty=False)
        return usage

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _read(fd: int) -> tuple[bool, Usage]:
    """Whether it is dirty, as one that was just made is, and what it says."""
    data = os.pread(fd, _FORM.size, 0)
    if len(data) < _FORM.size:
        return True, Usage()
    dirty, *values = _FORM.unpack(data)
    return dirty, Usage(*values)


def _write(fd: int, usage: Usage, *, dirty: bool) -> None:
    os.pwrite(fd, _FORM.pack(dirty, usage.bytes, usage.evictions), 0)
