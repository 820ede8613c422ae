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
import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipfs import errors
from clipfs.layer.limits import MAX_LAYER_CHUNKS
from clipfs.layer.sparse import Run, SparseMap
from clipfs.tree.erofs import BLOCK, BLOCK_BITS, MAX_BLOCKS, round_up

MAGIC = b"CLIPSPR1"
MIN_CHUNK_BITS = 12
"""4 KiB: file systems keep holes in units of that."""
MAX_CHUNK_BITS = 40
"""EROFS's own limit, with blocks of 512 bytes."""
CHUNKS, CHUNKS_A_RUN = 256, 4
"""A file is cut into that many chunks, and so many for each of its runs: its chunk index, 8 bytes a
chunk, stays as small as its map in the tar is, be it a TiB with one byte in it."""


class Placed(NamedTuple):
    """One sparse member, and where the first of its chunks that hold data stands."""

    map: SparseMap
    start: int

    @property
    def chunk_bits(self) -> int:
        return sparse_chunk_bits(self.map.size, self.map.run_count)


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """The sparse file of one layer; size_bytes is a multiple of a block.

    It takes 24 bytes of memory for each run of data and 8 for each member, besides the maps.
    """

    size_bytes: int
    data_bytes: int
    head: bytes
    _maps: Sequence[SparseMap]
    _starts: "array[int]"  # quoted: Python 3.11 cannot subscript it
    _offsets: "array[int]"
    _lengths: "array[int]"
    _sources: "array[int]"

    def placed(self) -> dict[int, Placed]:
        """The members that hold data, by the payload_offset of each one's map."""
        return {
            one.payload_offset: Placed(one, start)
            for one, start in zip(self._maps, self._starts, strict=True)
        }

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


def sparse_chunk_bits(size: int, run_count: int) -> int:
    """log2 of the chunk in which a sparse file of size bytes is cut; run_count 0: it is a hole."""
    most = CHUNKS + CHUNKS_A_RUN * run_count if run_count else 1
    per_chunk = -(-size // most)
    return min(max(MIN_CHUNK_BITS, (per_chunk - 1).bit_length()), MAX_CHUNK_BITS)


def layout_of(maps: Sequence[SparseMap]) -> SparseLayout | None:
    """Where the chunks of a layer's sparse members stand; None if it has none that hold data.

    maps    as a decoded layer index has them
    Raises  CorruptImage if that file would be longer than the kernel can address, or its members'
            chunk indexes together longer than `MAX_LAYER_CHUNKS`
    """
    if not maps:
        return None
    starts, offsets, lengths, sources = array("Q"), array("Q"), array("Q"), array("Q")
    at, table_chunks, digest = BLOCK, 0, hashlib.sha256()
    for one in maps:
        bits = sparse_chunk_bits(one.size, one.run_count)
        rank = newest = -1  # of the newest chunk with data: among those, and in the file
        starts.append(at)
        for offset, length, source in one.extents():
            first, last = offset >> bits, (offset + length - 1) >> bits
            rank += first != newest
            offsets.append(at + (rank << bits) + offset - (first << bits))
            lengths.append(length)
            sources.append(source)
            rank += last - first
            newest = last
        last_bytes = min(1 << bits, one.size - (newest << bits))
        at += (rank << bits) + round_up(last_bytes, BLOCK)
        table_chunks += -(-one.size >> bits)
        if at > MAX_BLOCKS * BLOCK:
            raise errors.CorruptImage(f"sparse files of a layer take over {MAX_BLOCKS} blocks")
        if table_chunks > MAX_LAYER_CHUNKS:
            raise errors.CorruptImage(
                f"sparse files of a layer have over {MAX_LAYER_CHUNKS} chunks; spread them over "
                "more layers"
            )
    for values in (offsets, lengths, sources):
        digest.update(values)
    head = (MAGIC + at.to_bytes(8, "little") + digest.digest()).ljust(BLOCK, b"\0")
    return SparseLayout(at, sum(lengths), head, tuple(maps), starts, offsets, lengths, sources)


def chunk_blocks(placed: Placed) -> Iterator[int | None]:
    """Of each chunk of a sparse file the block where it stands; None for a hole."""
    bits, block, chunk = placed.chunk_bits, placed.start // BLOCK, 0
    for offset, length, _ in placed.map.extents():
        first, last = offset >> bits, (offset + length - 1) >> bits
        yield from itertools.repeat(None, first - chunk)
        for _ in range(max(chunk, first), last + 1):
            yield block
            block += 1 << bits - BLOCK_BITS
        chunk = last + 1
    yield from itertools.repeat(None, (-(-placed.map.size >> bits)) - chunk)
