"""Where the kernel finds a layer's sparse files: `index/sha256_<layer>.v1.sparse`.

The kernel reads whole chunks of a file at block addresses; runs of data, packed as a tar has
them, are no such chunks. So those chunks of the layer's sparse files that hold any data stand in
one more file, one after another, each run at its place in them; that file has holes itself, and
takes as much of the disk as there is data. A chunk without data has no address.

All of it follows from the layer index: every node lays out the same file, whether it ever makes
one (for the kernel) or only looks up which payload bytes would stand there (the fuse front).

    block 0     HEAD: magic and a digest of the layout, so that no other layout's file is taken
    then        of each sparse member that holds data its chunks, the last one cut at file's end
"""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipfs import errors
from clipfs.layer.sparse import SparseMap
from clipfs.tree.erofs import BLOCK, MAX_BLOCKS, round_up

MAGIC = b"CLIPSPR1"
MIN_CHUNK_BITS = 12
"""4 KiB: file systems keep holes in units of that."""
MAX_CHUNK_BITS = 40
"""EROFS's own limit, with blocks of 512 bytes."""
CHUNKS, CHUNKS_A_RUN = 256, 4
"""A file is cut into that many chunks, and so many for each of its runs: its chunk index, 8 bytes a
chunk, stays as small as its map in the tar is, be it a TiB with one byte in it."""


class Run(NamedTuple):
    """Data of the sparse file: where it stands there, and where it lies in the payload."""

    offset: int
    length: int
    payload_offset: int


class Placed(NamedTuple):
    """One sparse member: those of its chunks that hold data, ascending; the first is at start."""

    size: int
    start: int
    chunk_bits: int
    chunks: "array[int]"  # quoted: Python 3.11 cannot subscript it


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """The sparse file of one layer; size_bytes is a multiple of a block.

    placed  by the payload_offset of the member's map
    """

    size_bytes: int
    data_bytes: int
    head: bytes
    placed: dict[int, Placed]
    _offsets: "array[int]"
    _lengths: "array[int]"
    _sources: "array[int]"

    def runs(self) -> Iterator[Run]:
        """All data, ascending; between the runs, and behind HEAD, there are zeros."""
        return map(Run, self._offsets, self._lengths, self._sources)

    def within(self, offset: int, length: int) -> list[Run]:
        """The data in length bytes from offset on, ascending, cut to them."""
        found: list[Run] = []
        end = offset + length
        for at in range(max(bisect_right(self._offsets, offset) - 1, 0), len(self._offsets)):
            start = self._offsets[at]
            if start >= end:
                break
            first, last = max(start, offset), min(start + self._lengths[at], end)
            if first < last:
                found.append(Run(first, last - first, self._sources[at] + first - start))
        return found


def chunk_bits(size: int, run_count: int) -> int:
    """log2 of the chunk in which a sparse file of size bytes is cut; run_count 0: it is a hole."""
    most = CHUNKS + CHUNKS_A_RUN * run_count if run_count else 1
    per_chunk = -(-size // most)
    return min(max(MIN_CHUNK_BITS, (per_chunk - 1).bit_length()), MAX_CHUNK_BITS)


def layout_of(maps: Sequence[SparseMap]) -> SparseLayout | None:
    """Where the chunks of a layer's sparse members stand; None if it has none that hold data.

    Raises  CorruptImage if that file would be longer than the kernel can address
    """
    if not maps:
        return None
    offsets, lengths, sources = array("Q"), array("Q"), array("Q")
    placed: dict[int, Placed] = {}
    at, digest = BLOCK, hashlib.sha256()
    for one in maps:
        bits, chunks, newest = chunk_bits(one.size, one.run_count), array("Q"), -1
        for offset, length, source in one.extents():
            first, last = offset >> bits, (offset + length - 1) >> bits
            if first != newest:
                chunks.append(first)
            offsets.append(at + (len(chunks) - 1 << bits) + offset - (first << bits))
            lengths.append(length)
            sources.append(source)
            if last != first:
                chunks.extend(range(first + 1, last + 1))
            newest = last
        placed[one.payload_offset] = Placed(one.size, at, bits, chunks)
        last_bytes = min(1 << bits, one.size - (chunks[-1] << bits))
        at += (len(chunks) - 1 << bits) + round_up(last_bytes, BLOCK)
        if at > MAX_BLOCKS * BLOCK:
            raise errors.CorruptImage(f"sparse files of a layer take over {MAX_BLOCKS} blocks")
    for values in (offsets, lengths, sources):
        digest.update(values.tobytes())
    head = (MAGIC + at.to_bytes(8, "little") + digest.digest()).ljust(BLOCK, b"\0")
    return SparseLayout(at, sum(lengths), head, placed, offsets, lengths, sources)


def chunk_blocks(size: int, placed: Placed | None) -> Iterator[int | None]:
    """Of each chunk of a sparse file the block where it stands; None for a hole.

    placed  None: the file is a hole from end to end
    """
    if placed is None:
        bits, chunks, start = chunk_bits(size, 0), array("Q"), 0
    else:
        _, start, bits, chunks = placed
    rank = 0
    for chunk in range(-(-size >> bits)):
        if rank < len(chunks) and chunks[rank] == chunk:
            yield (start + (rank << bits)) // BLOCK
            rank += 1
        else:
            yield None
