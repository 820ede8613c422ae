"""Ranges of a file, timed and counted by tier, with the page caches on their way cold.

Seconds are of one pread(2) in this process, as in a pod: of several, the median, since single
ones on a busy machine say little. Bytes are what `clipfs stats` says the tiers moved for them:
whole chunks, and what the kernel reads ahead.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.services import Node
from demo.stage import NotAsPromised

READ_BYTES = 53_248
"""A typical read of a Python program that imports: the size the read's figures are known for."""

RANGES = 5
PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Some reads: seconds of each, bytes moved for all of them by tier, what they returned."""

    seconds: Sequence[float]
    moved: Mapping[str, int]
    data: Sequence[bytes]

    @property
    def median_s(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]

    def bytes_a_read(self, tier: str) -> int:
        return self.moved[tier] // len(self.seconds)


def offsets(size: int, *, count: int = RANGES) -> list[int]:
    """Starts of `count` ranges of READ_BYTES, spread over a file so that none meets another.

    Raises  NotAsPromised if the file is too small for reads that read-ahead does not join
    """
    step = size // (count + 1) // PAGE * PAGE
    if step < 2 << 20:
        raise NotAsPromised(f"a file of {size} bytes is too small for {count} separate reads")
    return [step * (place + 1) for place in range(count)]


def ranges_of(file: Path, starts: Iterable[int]) -> list[bytes]:
    """The bytes that the reads at starts must return."""
    return [timed_read(file, start)[1] for start in starts]


def read_each(node: Node, file: Path, starts: Iterable[int]) -> Reads:
    """Read the range at each start, one after the other, through node's volume."""
    before = node.moved()
    seconds, data = zip(*(timed_read(file, start) for start in starts), strict=True)
    after = node.moved()
    moved = {tier: after[tier] - before[tier] for tier in after}
    return Reads(seconds=seconds, moved=moved, data=data)


def timed_read(file: Path, start: int) -> tuple[float, bytes]:
    with _opened(file) as fd:
        begin = time.perf_counter()
        data = os.pread(fd, READ_BYTES, start)
        seconds = time.perf_counter() - begin
    if len(data) != READ_BYTES:
        raise NotAsPromised(f"{file}: {len(data)} bytes read at {start}, not {READ_BYTES}")
    return seconds, data


def make_cold(*paths: Path) -> None:
    """Drop the page cache of files, and of all files below folders."""
    for path in paths:
        for file in _files(path):
            with _opened(file) as fd:
                os.fsync(fd)  # dirty pages cannot be dropped
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in path.rglob("*") if file.is_file())


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)
