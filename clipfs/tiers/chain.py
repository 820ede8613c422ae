"""The tiers in a row, nearest first: the only way from a front to a layer's bytes.

What a far tier delivers is stored on the node's disk before it is returned. Each chunk is
fetched once however many readers want it. A tier that misses hands over to the next; the
last one raises.
"""

from collections.abc import Iterable, Sequence

import trio

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.tier import Extent, IndexedLayer, Payload, Tier

_COMPLETE_CHUNKS = (8 << 20) // CHUNK_BYTES
"""How much is asked for at a time where all is wanted: what the content cache keeps together."""


class TierChain:
    """Reads through `disk`, then through `far` in order."""

    def __init__(self, disk: DiskTier, far: Sequence[Tier]) -> None:
        self._disk = disk
        self._far = far
        self._coming: dict[tuple[str, int], trio.Event] = {}  # (cache key, chunk) -> arrived

    async def load_index(self, layer: Layer) -> LayerIndex:
        """The layer's index from the nearest tier that has it, kept on disk from now on."""
        if (index := await self._disk.load_index(layer)) is not None:
            return index
        for tier in self._far:
            index = await tier.load_index(layer)
            if index is not None:
                if not tier.fills_disk:
                    self._disk.save_index(layer, index)
                return index
        raise errors.RegistryUnavailable(f"layer {layer.digest}: no tier has its index")

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload:
        """Exactly extent.length verified bytes; ClipError if no tier can deliver them."""
        data = await self._disk.read(layer, extent)
        while data is None:
            await self._bring(layer, extent.chunks())
            data = await self._disk.peek(layer, extent)
        return data

    async def complete(self, layer: IndexedLayer) -> None:
        """Return when the whole payload is in `cache/`, its chunks from the nearest tiers."""
        if self._disk.has_payload(layer):
            return
        for start in range(0, layer.index.chunk_count, _COMPLETE_CHUNKS):
            stop = min(start + _COMPLETE_CHUNKS, layer.index.chunk_count)
            await self._bring(layer, range(start, stop))
        await self._disk.promote(layer)

    async def _bring(self, layer: IndexedLayer, chunks: range) -> None:
        """Return when chunks are on disk: fetch those that nobody fetches, await the others."""
        key = layer.cache_key
        while missing := self._disk.missing(layer, chunks):
            free = _runs(c for run in missing for c in run if (key, c) not in self._coming)
            if not free:
                await self._coming[key, missing[0].start].wait()
                continue
            ours, arrived = free[0], trio.Event()
            self._coming.update({(key, chunk): arrived for chunk in ours})
            try:
                await self._fetch(layer, ours)
            finally:  # a reader that fails or goes away wakes the others: one of them takes over
                for chunk in ours:
                    del self._coming[key, chunk]
                arrived.set()

    async def _fetch(self, layer: IndexedLayer, chunks: range) -> None:
        extent = extent_of(chunks, payload_bytes=layer.index.payload_bytes)
        for tier in self._far:
            data = await tier.read(layer, extent)
            if data is None:
                continue
            if not tier.fills_disk:
                self._disk.write(layer, chunks, data)
            return
        raise errors.RegistryUnavailable(f"layer {layer.layer.digest}: no tier has its bytes")


def extent_of(chunks: range, *, payload_bytes: int) -> Extent:
    """The bytes of whole chunks, the payload's last one short."""
    start = chunks.start * CHUNK_BYTES
    return Extent(start, min(chunks.stop * CHUNK_BYTES, payload_bytes) - start)


def _runs(chunks: Iterable[int]) -> list[range]:
    """Ascending chunks as contiguous ranges."""
    runs: list[range] = []
    for chunk in chunks:
        if runs and runs[-1].stop == chunk:
            runs[-1] = range(runs[-1].start, chunk + 1)
        else:
            runs.append(range(chunk, chunk + 1))
    return runs
