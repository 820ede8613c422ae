"""The tiers in a row, nearest first: the only way from a front to a layer's bytes.

What a far tier delivers is stored on the node's disk before it is returned; where the disk
refuses, the verified bytes go to the readers who wait for them, and are fetched anew for the
next. Each chunk is fetched once however many readers want it, together with its neighbours that
are wanted at the same time. A tier that misses hands over to the next; the last one raises.

Not here: what is read ahead (`clipfs.tiers.read_ahead`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import trio

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.log import log
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.pages import by_page
from clipfs.tiers.tier import AskAgain, Extent, IndexedLayer, Payload, Tier

MAX_JOINED_CHUNKS = (2 << 20) // CHUNK_BYTES
"""What neighbours may make of one reader's request: he waits for all of it."""

Unstored = dict[int, Payload]
"""Verified chunks that are in memory alone, since the disk has refused them."""


@dataclass(slots=True, eq=False)
class _Coming:
    """Chunks that one reader fetches; the others wait, and get those that were not stored."""

    arrived: trio.Event = field(default_factory=trio.Event)
    unstored: Unstored = field(default_factory=dict)


class TierChain:
    """Reads through `disk`, then through `far` in order."""

    def __init__(self, disk: DiskTier, far: Sequence[Tier]) -> None:
        self._disk = disk
        self._far = far
        self._coming: dict[tuple[str, int], _Coming] = {}  # by cache key and chunk
        self._wanted: Counter[tuple[str, int]] = Counter()  # by how many
        self._disk_refuses = False
        self._refusal = errors.ClipError()  # the last one

    def asking(self, *far: Tier) -> Self:
        """A chain that asks only these; what it fetches is waited for here, and the reverse."""
        other = type(self)(self._disk, far)
        other._coming = self._coming
        return other

    async def load_index(self, layer: Layer) -> LayerIndex:
        """The layer's index from the nearest tier that has it, kept on disk from now on."""
        if (index := await self._disk.load_index(layer)) is not None:
            return index
        for tier in self._far:
            index = await tier.load_index(layer)
            if index is not None:
                if not tier.fills_disk:
                    self._disk.save_index(layer, index, durable=False)
                return index
        raise errors.RegistryUnavailable(f"layer {layer.digest}: no tier has its index")

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload:
        """Exactly extent.length verified bytes; ClipError if no tier can deliver them."""
        data = await self._disk.read(layer, extent)
        unstored: Unstored = {}
        while data is None:
            await self._bring(layer, extent.chunks(), unstored)
            if unstored:
                data = await self._gathered(layer, extent, unstored)
            else:
                data = await self._disk.peek(layer, extent)
        return data

    def has_all(self, layer: IndexedLayer) -> bool:
        """Whether the whole payload is in `cache/`."""
        return self._disk.has_payload(layer)

    async def bring_ahead(self, layer: IndexedLayer, chunks: range) -> None:
        """Return when chunks are on disk, for somebody who may read them later.

        A disk that refuses gets none: what it refuses would be fetched for nobody.
        """
        if not self._disk_refuses:
            await self._brought(layer, chunks, {}, joins=False)

    async def complete(
        self, layer: IndexedLayer, on_brought: Callable[[int], None] = lambda _: None
    ) -> None:
        """Return when the whole payload is in `cache/`, its chunks from the nearest tiers.

        on_brought  told how many bytes of the payload are here, from its begin
        Raises  DiskFull, NodeFault if the disk refuses a chunk
        """
        if self._disk.has_payload(layer):
            return
        for _, chunks in by_page(range(layer.index.chunk_count)):
            await self.bring(layer, chunks)
            on_brought(min(chunks.stop * CHUNK_BYTES, layer.index.payload_bytes))
        await self._disk.promote(layer)

    async def bring(self, layer: IndexedLayer, chunks: range) -> None:
        """Return when chunks are on disk.

        Raises  DiskFull, NodeFault if that refuses them; ClipError if no tier has them
        """
        unstored: Unstored = {}
        await self._brought(layer, chunks, unstored, joins=False)
        if unstored:
            raise type(self._refusal)(str(self._refusal))

    async def _bring(self, layer: IndexedLayer, chunks: range, unstored: Unstored) -> None:
        """Return when chunks are on disk or in unstored: fetch those that nobody fetches."""
        with self._wanting(layer.cache_key, chunks):
            await trio.lowlevel.checkpoint()  # the others of this moment say what they want
            await self._brought(layer, chunks, unstored, joins=True)

    async def _brought(
        self, layer: IndexedLayer, chunks: range, unstored: Unstored, *, joins: bool
    ) -> None:
        """joins  take along what others want beside it, in the same request"""
        key = layer.cache_key
        awaited: set[_Coming] = set()
        while missing := [
            c for run in self._disk.missing(layer, chunks) for c in run if c not in unstored
        ]:
            free = _runs(c for c in missing if (key, c) not in self._coming)
            awaited.update(self._coming[key, c] for c in missing if (key, c) in self._coming)
            if not free:
                await self._coming[key, missing[0]].arrived.wait()
            else:
                run = self._joined(layer, free[0]) if joins else free[0]
                awaited.add(await self._fetched(layer, run))
            for one in awaited:
                unstored.update(one.unstored)

    @contextmanager
    def _wanting(self, key: str, chunks: range) -> Iterator[None]:
        wanted = [(key, chunk) for chunk in chunks]
        self._wanted.update(wanted)
        try:
            yield
        finally:
            self._wanted -= Counter(wanted)  # drops those that nobody wants any more

    def _joined(self, layer: IndexedLayer, chunks: range) -> range:
        """chunks, with their neighbours that somebody wants, and that nobody fetches."""

        def is_free(chunk: int) -> bool:
            place = (layer.cache_key, chunk)
            return (
                place in self._wanted
                and place not in self._coming
                and bool(self._disk.missing(layer, range(chunk, chunk + 1)))
            )

        first, stop = chunks.start, chunks.stop
        while stop - first < MAX_JOINED_CHUNKS and is_free(stop):
            stop += 1
        while stop - first < MAX_JOINED_CHUNKS and is_free(first - 1):
            first -= 1
        return range(first, stop)

    async def _fetched(self, layer: IndexedLayer, chunks: range) -> _Coming:
        """Fetch chunks that nobody else fetches, for all who come to wait for them."""
        coming, keys = _Coming(), [(layer.cache_key, chunk) for chunk in chunks]
        self._coming.update(dict.fromkeys(keys, coming))
        try:
            coming.unstored = await self._fetch(layer, chunks)
        finally:  # a reader that fails or goes away wakes the others: one of them takes over
            for key in keys:
                del self._coming[key]
            coming.arrived.set()
        return coming

    async def _fetch(self, layer: IndexedLayer, chunks: range) -> Unstored:
        """Bring chunks to the disk, or none if they are to be asked for again; those it refuses."""
        extent = layer.extent_of(chunks)
        for tier in self._far:
            try:
                data = await tier.read(layer, extent)
            except AskAgain:
                return {}
            if data is None:
                continue
            if not tier.fills_disk and not self._stored(layer, chunks, data):
                return _by_chunk(chunks, data)
            return {}
        raise errors.RegistryUnavailable(f"layer {layer.layer.digest}: no tier has its bytes")

    def _stored(self, layer: IndexedLayer, chunks: range, data: Payload) -> bool:
        """Whether the disk took the chunks; what it refuses is no reader's loss."""
        try:
            self._disk.write(layer, chunks, data)
        except (errors.DiskFull, errors.NodeFault) as error:
            if not self._disk_refuses:
                log.warning("the disk refuses, reads go on without it", error=str(error))
            self._disk_refuses, self._refusal = True, error
            return False
        if self._disk_refuses:
            log.info("the disk takes bytes again")
        self._disk_refuses = False
        return True

    async def _gathered(
        self, layer: IndexedLayer, extent: Extent, unstored: Unstored
    ) -> Payload | None:
        """The extent chunk by chunk, from memory and from disk; None if one has gone again."""
        data = bytearray()
        for chunk in extent.chunks():
            start = chunk * CHUNK_BYTES
            begin, end = max(extent.offset, start), min(extent.end, start + CHUNK_BYTES)
            piece: Payload | None
            if chunk in unstored:
                piece = unstored[chunk][begin - start : end - start]
            else:
                piece = await self._disk.peek(layer, Extent(begin, end - begin))
            if piece is None:
                return None
            data += piece
        return data


def _by_chunk(chunks: range, data: Payload) -> Unstored:
    pieces = (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))
    return dict(zip(chunks, pieces, strict=True))


def _runs(chunks: Iterable[int]) -> list[range]:
    """Ascending chunks as contiguous ranges."""
    runs: list[range] = []
    for chunk in chunks:
        if runs and runs[-1].stop == chunk:
            runs[-1] = range(runs[-1].start, chunk + 1)
        else:
            runs.append(range(chunk, chunk + 1))
    return runs
