"""What a front reads through: the devices of an image index, by the tiers of its layers.

A device is a layer's payload or, behind those, a layer's sparse files (`clipfs.tree.sparse`). No
file of those is needed to read them: what would stand there is looked up in the payload, so that
a read moves the chunks of the payload that hold its bytes, and holes move none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipfs.tiers.tier import Extent, IndexedLayer, Payload, Reader
from clipfs.tree.sparse import SparseLayout


@dataclass(frozen=True, slots=True)
class ChainPayloads:
    """The devices of one image: its layers, then `sparse`, in their order.

    on_failed  is told of each read that ends in an error
    """

    reader: Reader
    layers: Sequence[IndexedLayer]
    sparse: Sequence[tuple[IndexedLayer, SparseLayout]]
    on_failed: Callable[[], None]

    async def read(self, device: int, offset: int, length: int, *, follows: int) -> Payload:
        """Exactly length bytes, verified, within one file; ClipError if no tier has them."""
        try:
            return await self._read(device, offset, length, follows=follows)
        except Exception:
            self.on_failed()
            raise

    async def _read(self, device: int, offset: int, length: int, *, follows: int) -> Payload:
        if device < len(self.layers):
            extent = Extent(offset, length)
            return await self.reader.read(self.layers[device], extent, follows=follows)
        layer, layout = self.sparse[device - len(self.layers)]
        data = bytearray(length)
        if runs := layout.within(offset, length):
            start = runs[0].payload_offset  # those of one file lie one directly after another
            packed = sum(run.length for run in runs)
            found = memoryview(await self.reader.read(layer, Extent(start, packed), follows=0))
            for run in runs:
                at, source = run.offset - offset, run.payload_offset - start
                data[at : at + run.length] = found[source : source + run.length]
        return data
