"""Reads and bytes by tier, how long reads took, and what the background fill has done: one small
file a process, so that a killed server's count too.

`run/counters/<pid>.<start time>` is native 64-bit numbers (`clipfs.mount.figures`) that its
process maps; what ended processes leave is added to `run/counters/ended` under a lock, by
whoever looks next.
"""

import contextlib
import fcntl
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.mount import figures
from clipfs.mount.figures import BOUNDS_S, READS, SIZE_BYTES, TIMES, Figures, Numbers
from clipfs.system.processes import is_running, name_of
from clipfs.tiers.tier import FillState, TierName, Trouble


class Counters:
    """This process's own numbers."""

    def __init__(self, area: mmap.mmap) -> None:
        self._numbers = memoryview(area).cast("Q")

    def count_read(self, tier: TierName, count: int, seconds: float) -> None:
        """One more read that a tier has answered, with count bytes."""
        numbers, place, times = self._numbers, READS[tier], TIMES[tier]
        numbers[place] += 1
        numbers[place + 1] += count
        numbers[times + bisect_left(BOUNDS_S, seconds)] += 1
        numbers[times + len(BOUNDS_S) + 1] += int(seconds * 1e9)

    def count_download(self, count: int) -> None:
        """Bytes of a blob: they are what the registry has moved, whoever they were for."""
        self._numbers[READS["registry"] + 1] += count

    def count_failed(self) -> None:
        """One read more that no tier could answer."""
        self._numbers[figures.FAILED] += 1

    def count_indexed(self) -> None:
        """One layer more has its index by a pass over its blob."""
        self._numbers[figures.INDEXED] += 1

    def count_trouble(self, trouble: Trouble) -> None:
        """The content cache gave no usable answer, or a wrong one; somebody else has answered."""
        self._numbers[figures.TROUBLE[trouble]] += 1

    def fill_is(self, state: FillState) -> None:
        """What the background fill does from now on."""
        self._numbers[figures.FILL_STATE] = figures.STATES.index(state)

    def fill_brought(self, count: int) -> None:
        """So many bytes of payload more."""
        self._numbers[figures.FILL_BYTES] += count

    def fill_completed(self) -> None:
        """One layer more is whole by it."""
        self._numbers[figures.FILL_LAYERS] += 1

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
        area = mmap.mmap(-1, SIZE_BYTES)
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
        file.write(bytes(SIZE_BYTES))
        file.flush()
        return mmap.mmap(file.fileno(), SIZE_BYTES)


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


def count_evicted(layout: Layout, count: int) -> None:
    """So many layers more have made room, whichever process has removed them."""
    numbers = [0] * len(figures.unpacked(b""))
    numbers[figures.EVICTED] = count
    with _locked(_folder(layout)) as ended:
        _add(ended, numbers)


def numbers_of_all(layout: Layout) -> Numbers:
    """The sum over all processes since run/ was made, ended ones included; needs no writing."""
    folder = _place(layout)
    with contextlib.suppress(OSError):  # full or read-only: the sum is the same
        fold_ended(layout)
    with _shared(folder / "ended"):
        total = _read(folder / "ended")
        for path in _files(folder):
            total = figures.added(total, _read(path))
    return total


def sum_all(layout: Layout) -> Figures:
    """`numbers_of_all`, by tier."""
    return figures.figures_of(numbers_of_all(layout))


def of(layout: Layout, pid: int) -> Figures:
    """The numbers of a living process; zeros if it does not count."""
    return figures.figures_of(numbers_of(layout, pid))


def numbers_of(layout: Layout, pid: int) -> Numbers:
    """The same, all of them."""
    return _read(_place(layout) / name_of(pid))


def fill_of(layout: Layout, pid: int) -> dict[str, Any]:
    """What the background fill of a living process does and has done; "off" if it has none."""
    return figures.fill_of(numbers_of(layout, pid))


def _place(layout: Layout) -> Path:
    return layout.run / "counters"


def _folder(layout: Layout) -> Path:
    folder = _place(layout)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "ended").touch()  # before there is anything to fold: the sum is read under its lock
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
    _add(ended, _read(path))
    path.unlink(missing_ok=True)


def _add(ended: Path, numbers: Numbers) -> None:
    total = figures.added(_read(ended), numbers)
    with ended.open("r+b") as file:
        file.write(figures.packed(total))


def _read(path: Path) -> Numbers:
    data = b""
    with contextlib.suppress(FileNotFoundError):
        data = path.read_bytes()
    return figures.unpacked(data)
