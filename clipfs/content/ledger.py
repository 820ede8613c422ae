"""How much is kept, known without looking at every object: a few bytes in a file.

All processes that serve a folder share it, under its lock. While it is being changed it says
so: whoever finds that, with the lock in its hand, knows that the last one was killed half-way,
and counts anew.
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
class Kept:
    """bytes: what all objects cost. evictions: layers that had to go, ever."""

    bytes: int = 0
    evictions: int = 0


class Ledger:
    def __init__(self, path: Path, count: Callable[[], int]) -> None:
        """count  the true number of bytes, however long that takes"""
        self._path = path
        self._count = count

    def read(self) -> Kept:
        """What it says now; for information, since it may be changing."""
        with self._path.open("rb") as file:
            _, *values = _FORM.unpack(file.read(_FORM.size))
        return Kept(*values)

    @contextmanager
    def locked(self) -> Iterator[Kept]:
        """Nobody changes it, and no object comes or goes, until the block ends."""
        with self._locked() as fd:
            yield self._sure(fd)

    @contextmanager
    def change(self) -> Iterator[Kept]:
        """What the block leaves in the value is kept; it must be true wherever it may raise."""
        with self._locked() as fd:
            kept = self._sure(fd)
            _write(fd, kept, changing=True)
            try:
                yield kept
            finally:
                _write(fd, kept, changing=False)

    def count_anew(self) -> Kept:
        """Count all objects, whatever it says."""
        with self._locked() as fd:
            kept = Kept(self._count(), _read(fd)[1].evictions)
            _write(fd, kept, changing=False)
            return kept

    def _sure(self, fd: int) -> Kept:
        changing, kept = _read(fd)
        if changing:
            kept.bytes = self._count()
            _write(fd, kept, changing=False)
        return kept

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _read(fd: int) -> tuple[bool, Kept]:
    data = os.pread(fd, _FORM.size, 0)
    if len(data) < _FORM.size:
        return True, Kept()
    changing, *values = _FORM.unpack(data)
    return changing, Kept(*values)


def _write(fd: int, kept: Kept, *, changing: bool) -> None:
    os.pwrite(fd, _FORM.pack(changing, kept.bytes, kept.evictions), 0)
