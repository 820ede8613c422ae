"""What a tier is. Three implementations, one law-book of tests (tests/tiers/test_tier_laws.py).

A tier answers for whole layers by their cache key and never sees a path or an inode. None is
a miss, said without an error; what is returned has been verified.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex

TierName = Literal["disk", "content_cache", "registry"]
Trouble = Literal["errors", "verify_failures"]
"""What goes wrong with the content cache and fails nobody: requests without a usable answer, and
indexes and chunks that are not what they should be."""

FillState = Literal["off", "idle", "filling", "waiting", "no_room"]
"""Of the background fill. waiting: for its turn, or a tier that is away; no_room: for the disk."""

Payload = bytes | bytearray
"""Bytes of a layer that have been verified; a bytearray where a copy would cost time."""

OnRead = Callable[[int, float], None]
"""Is told of a read that was answered: bytes, and seconds that it took."""


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` payload bytes from `offset`; within the payload, length at least 1."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    def chunks(self) -> range:
        """Indices of the chunks that cover the extent."""
        return range(self.offset // CHUNK_BYTES, -(-self.end // CHUNK_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedLayer:
    """A layer whose index is known: the unit that tiers serve."""

    layer: Layer
    index: LayerIndex

    @property
    def cache_key(self) -> str:
        return self.layer.cache_key

    def extent_of(self, chunks: range) -> Extent:
        """The bytes of whole chunks, the payload's last one short."""
        start = chunks.start * CHUNK_BYTES
        return Extent(start, min(chunks.stop * CHUNK_BYTES, self.index.payload_bytes) - start)


class AskAgain(Exception):
    """Another node brings the layer: a nearer tier has the bytes soon. Never leaves the tiers."""


class Reader(Protocol):
    """What a front reads through: all tiers, by whatever way."""

    async def read(self, layer: IndexedLayer, extent: Extent, *, follows: int = 0) -> Payload:
        """Exactly extent.length verified bytes; ClipError if no tier can deliver them.

        follows  so many bytes of the same file come behind extent, in this layer
        """


class Tier(Protocol):
    """One place where a layer's bytes may be."""

    @property
    def fills_disk(self) -> bool:
        """Whether it writes what it delivers to the node's disk, or leaves that to the chain."""

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        """The layer's index, verified; None if this tier does not hold it."""

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        """Exactly extent.length bytes, verified; None if this tier does not hold them all.

        Raises  AskAgain, of the chain alone
        """
