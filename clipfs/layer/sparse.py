"""What a sparse member's content is: runs of data with holes between them, which are zeros.

An archive keeps the runs packed, one directly after another, as Go, libarchive and Python read
them: so where they lie in the payload follows from where the first one does.

Not here: how formats write maps (`clipfs.layer.archive.sparse_formats`); where the kernel finds
the runs (`clipfs.tree.sparse`).
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import msgspec

from clipfs import errors
from clipfs.layer.limits import (
    MAX_EXTENTS,
    MAX_LAYER_EXTENTS,
    MAX_PAYLOAD_BYTES,
    MAX_SPARSE_BYTES,
    MAX_SPARSE_MEMBERS,
)

_PAIR = struct.Struct("<QQ")


class Run(NamedTuple):
    """`length` bytes of data, which lie in the payload at `payload_offset`; in a file, be it a
    member or what the kernel gets of a layer (`clipfs.tree.sparse`), they are at `offset`."""

    offset: int
    length: int
    payload_offset: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class SparseMap(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the content of one sparse member is; it has at least one run of data.

    size            bytes of the content, holes included
    payload_offset  where the first run starts in the payload; no other member's does there
    runs            offset in the file and length of each, 8 bytes each, little endian: ascending,
                    apart from each other, none empty
    """

    size: Annotated[int, msgspec.Meta(gt=0, le=MAX_SPARSE_BYTES)]
    payload_offset: Annotated[int, msgspec.Meta(gt=0, le=MAX_PAYLOAD_BYTES)]
    runs: Annotated[bytes, msgspec.Meta(min_length=_PAIR.size)]

    @property
    def run_count(self) -> int:
        return len(self.runs) // _PAIR.size

    def extents(self) -> Iterator[Run]:
        """The runs, ascending."""
        at = self.payload_offset
        for offset, length in _PAIR.iter_unpack(self.runs):
            yield Run(offset, length, at)
            at += length


def are_sound(maps: Sequence[SparseMap], payload_bytes: int) -> bool:
    """Whether a tar of payload_bytes may have these maps, in archive order."""
    runs = sum(one.run_count for one in maps)
    if len(maps) > MAX_SPARSE_MEMBERS or runs > MAX_LAYER_EXTENTS:
        return False
    at = 0
    for one in maps:
        if one.payload_offset < at or len(one.runs) % _PAIR.size:
            return False
        at, end = one.payload_offset, -1
        for offset, length in _PAIR.iter_unpack(one.runs):
            if offset <= end or not length:
                return False
            at, end = at + length, offset + length
        if end > one.size:
            return False
    return at <= payload_bytes


class RunsBuilder:
    """One member's runs, taken up one by one as its map states them."""

    def __init__(self, size: int) -> None:
        """size: of the file, holes included; CorruptImage if it is out of bounds."""
        if not 0 <= size <= MAX_SPARSE_BYTES:
            raise errors.CorruptImage(f"a sparse file of {size} bytes, over {MAX_SPARSE_BYTES}")
        self.size = size
        self.data_bytes = 0
        self._stated = 0
        self._end = 0  # of what is stated so far
        self._start = 0  # of the run in hand, which goes on to _end
        self._packed = bytearray()

    def add(self, offset: int, length: int) -> None:
        """The map's next run, which may be empty; CorruptImage if it cannot be."""
        self._stated += 1
        if self._stated > MAX_EXTENTS:
            raise errors.CorruptImage(f"a sparse map of more than {MAX_EXTENTS} runs")
        if length < 0 or offset < self._end or offset + length > self.size:
            raise errors.CorruptImage(
                f"a sparse map with {length} bytes at {offset}, behind {self._end} of {self.size}"
            )
        if offset > self._end:
            self._close_run()
            self._start = offset
        self._end = offset + length
        self.data_bytes += length

    @property
    def is_whole(self) -> bool:
        """Whether the runs leave no hole: then the content lies in the payload as it is."""
        return self.data_bytes == self.size

    def map(self, payload_offset: int) -> SparseMap | None:
        """All of it, once it is stated; None if it is a hole from end to end."""
        self._close_run()
        self._start = self._end
        return SparseMap(self.size, payload_offset, bytes(self._packed)) if self._packed else None

    def _close_run(self) -> None:
        if self._end > self._start:
            self._packed += _PAIR.pack(self._start, self._end - self._start)
