"""A tier in memory: the smallest one that keeps the laws, for tests of what uses tiers.

It counts its reads, can wait in the middle of one, and can fail.
"""

from dataclasses import dataclass, field

import trio

from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.tiers.tier import Extent, IndexedLayer, Payload
from tests.support.samples import Sample


@dataclass(slots=True, kw_only=True)
class MemoryTier:
    """Holds `samples`.

    fills_disk  what it says of itself; it writes nothing
    gate        a read waits for it, if it is set
    fails       errors that the next reads raise, one each
    reading     readers that are waiting now
    """

    samples: list[Sample]
    fills_disk: bool = False
    gate: trio.Event | None = None
    fails: list[Exception] = field(default_factory=list)
    asked: list[Extent] = field(default_factory=list)
    reading: int = 0

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        await trio.lowlevel.checkpoint()
        return next((s.indexed.index for s in self.samples if s.layer == layer), None)

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        self.asked.append(extent)
        self.reading += 1
        try:
            await trio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.reading -= 1
        if self.fails:
            raise self.fails.pop(0)
        found = (s.bytes_of(extent) for s in self.samples if s.key == layer.cache_key)
        return next(found, None)
