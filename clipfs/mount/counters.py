"""Reads and bytes by tier, and what the background fill has done: one small file a process, so
that a killed server's count too.

`run/counters/<pid>.<start time>` is native 64-bit numbers that its process maps; what
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
from typing import Any, get_args

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.system.processes import is_running, name_of
from clipfs.tiers.tier import FillState, TierName, Trouble

TIERS: tuple[TierName, ...] = ("disk", "content_cache", "registry")
TROUBLES: tuple[Trouble, ...] = ("errors", "verify_failures")  # of the content cache
_STATES: tuple[FillState, ...] = get_args(FillState)
_NUMBERS = struct.Struct("=11Q")
"""Reads and bytes of each tier; troubles; layers, bytes and state of the background fill."""
_FILL = 2 * len(TIERS) + len(TROUBLES)

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

    def count_trouble(self, trouble: Trouble) -> None:
        """The content cache gave no usable answer, or a wrong one; somebody else has answered."""
        self._numbers[2 * len(TIERS) + TROUBLES.index(trouble)] += 1

    def fill_is(self, state: FillState) -> None:
        """What the background fill does from now on."""
        self._numbers[_FILL + 2] = _STATES.index(state)

    def fill_brought(self, count: int) -> None:
        """So many bytes of payload more."""
        self._numbers[_FILL + 1] += count

    def fill_completed(self) -> None:
        """One layer more is whole by it."""
        self._numbers[_FILL] += 1

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
    folder = _place(layout)
    with contextlib.suppress(OSError):  # full or read-only: the sum is the same
        fold_ended(layout)
    with _shared(folder / "ended"):
        total = _read(folder / "ended")
        for path in _files(folder):
            total = [a + b for a, b in zip(total, _read(path), strict=True)]
    return _figures(total)


def of(layout: Layout, pid: int) -> Figures:
    """The numbers of a living process; zeros if it does not count."""
    return _figures(_read(_place(layout) / name_of(pid)))


def fill_of(layout: Layout, pid: int) -> dict[str, Any]:
    """What the background fill of a living process does and has done; "off" if it has none."""
    layers, count, state = _read(_place(layout) / name_of(pid))[_FILL:]
    return {"state": _STATES[state], "layers": layers, "bytes": count}


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
    figures: Figures = {
        tier: {"reads": numbers[2 * place], "bytes": numbers[2 * place + 1]}
        for place, tier in enumerate(TIERS)
    }
    figures["content_cache"] |= zip(TROUBLES, numbers[2 * len(TIERS) : _FILL], strict=True)
    return figures
