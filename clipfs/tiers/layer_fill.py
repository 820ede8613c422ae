"""One layer filled in the background: its missing chunks from the content cache, else a pass.

Pieces of pages go through the chain: each is verified, fetched once, and at hand for whoever
reads it. No request begins while a read waits for a far tier; those under way are few and small,
and each rests for as long as it took, so that about half of what the content cache could send is
left to others. A pass over a layer, once it has begun, is not held up.

Not here: which layer, and when (`clipfs.tiers.background`); passes (`clipfs.tiers.registry`).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from clipfs import errors
from clipfs.layer.layout import layer_index_name
from clipfs.tiers.chain import TierChain
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.foreground import Foreground
from clipfs.tiers.stack import Tiers
from clipfs.tiers.tier import AskAgain, Extent, IndexedLayer, Tier

PIECE_CHUNKS = 4
"""512 KiB. A page is 16 of them: no piece lies in two."""

REQUESTS_AT_ONCE = 4
"""2 MiB on their way at most: 17 ms of a network of 1 Gbit/s, for a read that comes just then."""

MOST_REST_S = 1.0
"""After a request that took long: the server may have hung, without a network that is full."""

ROOM_STEP_BYTES = 64 << 20
"""What is taken at most between two looks at the room that is left; near its end, half of that."""


class Source(Protocol):
    """Where the rest of a layer comes from. `content_cache` is None where tier 2 is off."""

    @property
    def content_cache(self) -> Tier | None: ...

    async def is_stored(self, layer: IndexedLayer) -> bool:
        """Whether the content cache should have the layer; ContentCacheDown if it is away."""

    async def download(self, layer: IndexedLayer, missed: Extent | None) -> None:
        """Return when the registry's layer is whole on this disk; ClipError if it will not be.

        missed  by the content cache; AskAgain, after a pause, if another node brings that
        """


@dataclass(frozen=True, slots=True)
class FarTiers:
    """The source that a mount's tiers are."""

    tiers: Tiers

    @property
    def content_cache(self) -> Tier | None:
        return self.tiers.content_cache

    async def is_stored(self, layer: IndexedLayer) -> bool:
        assert self.tiers.store is not None
        index = layer_index_name(layer.cache_key)
        return await self.tiers.store.get(index, part=range(1), dear=True) is not None

    async def download(self, layer: IndexedLayer, missed: Extent | None) -> None:
        await self.tiers.registry.complete(layer, missed=missed)


@dataclass(slots=True)
class Room:
    """What of the node's disk may still be taken; `look` says so anew, in a thread."""

    look: Callable[[], int]
    _left_bytes: int = 0
    _under_way_bytes: int = 0
    _one: trio.Lock = field(default_factory=trio.Lock)

    def look_again(self) -> None:
        """Others may have taken of it."""
        self._left_bytes = 0

    @asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """Have room for count bytes, which are on the disk at the block's end, if all goes well.

        Raises  DiskFull
        """
        async with self._one:
            if self._left_bytes < count:
                under_way = self._under_way_bytes  # some of it may be on the disk after the look
                found = await trio.to_thread.run_sync(self.look) - under_way
                self._left_bytes = min(found, max(count, min(found // 2, ROOM_STEP_BYTES)))
            if self._left_bytes < count:
                raise errors.DiskFull(
                    f"the disk's limits leave {max(0, self._left_bytes)} bytes of room, {count} "
                    "are wanted; see --max-bytes and --min-free"
                )
            self._left_bytes -= count
        self._under_way_bytes += count
        try:
            yield
        finally:
            self._under_way_bytes -= count


class LayerFill:
    """Fills one layer after the other; on_brought is told payload bytes as they come."""

    def __init__(
        self,
        chain: TierChain,
        disk: DiskTier,
        source: Source,
        *,
        foreground: Foreground,
        room: Room,
        on_brought: Callable[[int], None],
    ) -> None:
        self._disk = disk
        self._source = source
        self._near = chain.asking(source.content_cache) if source.content_cache else None
        self._foreground = foreground
        self._room = room
        self._on_brought = on_brought

    async def complete(self, layer: IndexedLayer) -> None:
        """Return when the whole payload is in `cache/`.

        Raises  ClipError: DiskFull also where the limits leave no room; ContentCacheDown;
                OSError if nobody can say what room there is
        """
        looks = 0
        while self._near is None or not await self._fetched(layer, self._near):
            looks += 1
            if self._near is not None and await self._source.is_stored(layer) and looks == 1:
                continue  # it may have come back before it was asked why it had nothing
            if await self._downloaded(layer):
                return
        await self._disk.promote(layer)

    async def _downloaded(self, layer: IndexedLayer) -> bool:
        """Whether the layer is whole now; else another node brings it to the content cache."""
        missing = self._disk.missing(layer, range(layer.index.chunk_count))
        missed: Extent | None = None
        if self._near is not None and missing:
            start = missing[0].start
            missed = layer.extent_of(range(start, start + 1))
        count = _bytes_of(layer, missing)
        async with self._room.taken(count):
            await self._foreground.quiet()
            try:
                await self._source.download(layer, missed)
            except AskAgain:
                return False
        self._on_brought(count)
        return True

    async def _fetched(self, layer: IndexedLayer, chain: TierChain) -> bool:
        """Whether the content cache had all that was missing; what it had is on the disk."""
        count = layer.index.chunk_count
        starts = iter(range(0, count, PIECE_CHUNKS))
        failures: list[errors.ClipError | OSError] = []

        async def fetch() -> None:
            for start in starts:
                window = range(start, min(start + PIECE_CHUNKS, count))
                await self._foreground.quiet()  # what it brings is not missing then
                for piece in self._disk.missing(layer, window):
                    try:
                        await self._fetch(layer, piece, chain)
                    except (errors.ClipError, OSError) as error:
                        failures.append(error)
                    if failures:
                        return

        async with trio.open_nursery() as nursery:
            for _ in range(REQUESTS_AT_ONCE):
                nursery.start_soon(fetch)
        for error in failures:
            if not isinstance(error, errors.RegistryUnavailable):
                raise error
        return not failures

    async def _fetch(self, layer: IndexedLayer, piece: range, chain: TierChain) -> None:
        """Raises  RegistryUnavailable if the content cache has no such bytes; as `bring`"""
        count = _bytes_of(layer, [piece])
        async with self._room.taken(count):
            await self._foreground.quiet()
            begin = trio.current_time()
            await chain.bring(layer, piece)
        self._on_brought(count)
        await trio.sleep(min(MOST_REST_S, trio.current_time() - begin))


def _bytes_of(layer: IndexedLayer, runs: Sequence[range]) -> int:
    return sum(layer.extent_of(run).length for run in runs)
