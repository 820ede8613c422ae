"""Files with holes, as a disk image, a database or a log by uid has them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SparseFile:
    """size in bytes; runs: offset and length of the data in it."""

    size: int
    runs: Sequence[tuple[int, int]]
    is_sparse: bool = True


FILES = {
    "empty": SparseFile(0, [], is_sparse=False),
    "plain": SparseFile(100_001, [(0, 100_001)], is_sparse=False),
    "hole": SparseFile(5 * MIB + 7, []),
    "small": SparseFile(9000, [(4096, 1)]),
    "hole-at-the-end": SparseFile(3 * MIB, [(0, 70_000)]),
    "hole-at-the-start": SparseFile(3 * MIB + 777, [(3 * MIB, 777)]),
    "hole-in-the-middle": SparseFile(2 * MIB, [(0, 300_000), (2 * MIB - 5000, 5000)]),
    "many": SparseFile(40 * MIB, [(at * 200_000, 5000 + at) for at in range(150)]),
    "far": SparseFile(9 << 30, [(4096, 10), ((8 << 30) + 4096, 9000), ((9 << 30) - 1, 1)]),
    "terabyte": SparseFile(1 << 40, [(1 << 39, 1)]),
}


HUGE = ("far", "terabyte")
"""Those that nobody reads from end to end."""


def make_sparse_files(folder: Path, names: Iterable[str] = FILES) -> None:
    """Those of FILES, with bytes that are never zero."""
    for name in names:
        one = FILES[name]
        with (folder / name).open("wb") as file:
            file.truncate(one.size)
            for offset, length in one.runs:
                file.seek(offset)
                file.write(os.urandom(length).replace(b"\0", b"\1"))
