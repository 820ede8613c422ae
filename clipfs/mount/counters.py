"""Reads and bytes by tier: one small file a process, so that a killed server's count too.

`run/counters/<pid>.<start time>` is eight native 64-bit numbers that its process maps; what
ended processes leave is added to `run/counters/ended` under a lock, by whoever looks next.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from clipfs.layer.layout import Layout
from clipfs.system.processes import is_running, name_of
from clipfs.tiers.tier import TierName

log = structlog.get_logger()

TIERS: tuple[TierName, ...] = ("disk", "content_cache", "registry")
_NUMBERS = struct.Struct("=8Q")  # reads and bytes of each tier, then those of its faults
_WRONG, _ERRORS = 6, 7

Figures = dict[str, dict[str, int]]


class Counters:
    """This process's own numbers."""

    def __init__(self, area: mmap.mmap) -> None:
        self._numbers = memoryview(area).cast("Q")

    def count_read(self, tier: TierName, count: int) -> None:
        """One more read that a tier has answered, with count bytes."""
        self._add(tier, 1, count)

    def count_download(self, count: int) -> None:
        """Bytes of a blob: they are what the registry has moved, whoever they were for."""
        self._add("registry", 0, count)

    def count_wrong(self) -> None:
        """One more answer of the content cache with a chunk that is not the layer's."""
        self._numbers[_WRONG] += 1

    def count_error(self) -> None:
        """One more that was none, or an index that does not verify."""
        self._numbers[_ERRORS] += 1

    def _add(self, tier: TierName, reads: int, count: int) -> None:
        position = TIERS.index(tier) * 2
        self._numbers[position] += reads
        self._numbers[position + 1] += count

    def close(self) -> None:
        self._numbers.release()


@contextmanager
def open_own(layout: Layout) -> Iterator[Counters]:
    """Count for this process while the block runs, then leave the sum behind.

    A disk that refuses loses numbers: no mount and no read fails for them.
    """
    try:
        area = _mapped(_folder(layout) / name_of(os.getpid()))
    except OSError as error:
        log.warning("reads are not counted", error=str(error))
        area = mmap.mmap(-1, _NUMBERS.size)
    own = Counters(area)
    try:
        yield own
    finally:
        own.close()
        area.close()
        with contextlib.suppress(OSError):  # whoever looks next adds them up
            folder = _folder(layout)
            with _locked(folder) as ended:
                _fold(folder / name_of(os.getpid()), ended)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("w+b") as file:
        file.write(bytes(_NUMBERS.size))
        file.flush()
        return mmap.mmap(file.fileno(), _NUMBERS.size)


def fold_all(layout: Layout) -> None:
    """Count every process as ended: they were of an earlier boot."""
    folder = _folder(layout)
    with _locked(folder) as ended:
        for path in _files(folder):
            _fold(path, ended)


def fold_ended(layout: Layout) -> None:
    """Count what killed processes left as ended, so that their files go."""
    folder = _place(layout)
    if all(is_running(path.name) for path in _files(folder)):
        return
    with _locked(folder) as ended:
        _fold_ended(folder, ended)


def sum_all(layout: Layout) -> Figures:
    """The sum over all processes since run/ was made, ended ones included; needs no writing."""
    return _figures(_sum(layout))


def faults(layout: Layout) -> dict[str, int]:
    """How often the content cache was wrong, or gave no answer, since run/ was made."""
    total = _sum(layout)
    return {"chunk_verify_failures": total[_WRONG], "content_cache_errors": total[_ERRORS]}


def of(layout: Layout, pid: int) -> Figures:
    """The numbers of a living process; zeros if it does not count."""
    return _figures(_read(_place(layout) / name_of(pid)))


def _sum(layout: Layout) -> Sequence[int]:
    folder = _place(layout)
    with contextlib.suppress(OSError):  # full or read-only: the sum is the same
        fold_ended(layout)
    with _shared(folder / "ended"):
        total = _read(folder / "ended")
        for path in _files(folder):
            total = [a + b for a, b in zip(total, _read(path), strict=True)]
    return total


def _place(layout: Layout) -> Path:
    return layout.run / "counters"


def _folder(layout: Layout) -> Path:
    folder = _place(layout)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _files(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.exists() else ()
    return [path for path in paths if path.name != "ended" and "." in path.name]


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    path = folder / "ended"
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


@contextmanager
def _shared(ended: Path) -> Iterator[None]:
    """Nobody folds while it is read; without the file nobody has folded yet."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            fcntl.flock(stack.enter_context(ended.open("rb")), fcntl.LOCK_SH)
        yield


def _fold_ended(folder: Path, ended: Path) -> None:
    for path in _files(folder):
        if not is_running(path.name):
            _fold(path, ended)


def _fold(path: Path, ended: Path) -> None:
    """Add path's numbers to those of ended processes; under the lock."""
    total = [a + b for a, b in zip(_read(ended), _read(path), strict=True)]
    with ended.open("r+b") as file:
        file.write(_NUMBERS.pack(*total))
    path.unlink(missing_ok=True)


def _read(path: Path) -> Sequence[int]:
    data = b""
    with contextlib.suppress(FileNotFoundError):
        data = path.read_bytes()
    return _NUMBERS.unpack(data[: _NUMBERS.size].ljust(_NUMBERS.size, b"\0"))


def _figures(numbers: Sequence[int]) -> Figures:
    return {
        tier: {"reads": numbers[2 * place], "bytes": numbers[2 * place + 1]}
        for place, tier in enumerate(TIERS)
    }
