"""Stores finished layers in the content cache, behind the readers' backs.

From the verified file in `cache/` only, so that a hostile image cannot poison a key that
another image reads, and each page verified once more, since a disk may fail. A layer's index
is published at once, for those who wait for it; its pages follow, one layer after the other. The
origin records that this node has of it go before the index: who finds that must not miss them.
Until they are there the layer is claimed, so that whoever misses one waits for it. What is there
already is not stored again, so that storing a layer once more repairs it and costs little.

Not here: the marks that outlive a process (`clipfs.tiers.storing`).
"""

import enum
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import trio

from clipfs.layer.index import LayerIndex
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.log import log
from clipfs.system.cached import open_regular
from clipfs.tiers.content.store import ContentCacheDown, ContentRefused, ContentStore
from clipfs.tiers.derived import check_index_size, is_derived_stored, store_derived
from clipfs.tiers.held_claims import HeldClaims
from clipfs.tiers.origins import OriginRecords
from clipfs.tiers.pages import PAGE_BYTES, chunks_of_page, page_count, page_key
from clipfs.tiers.storing import mark_failed, mark_storing, unmark
from clipfs.tiers.tier import IndexedLayer
from clipfs.tiers.verify import first_wrong_chunk

PAGES_AT_ONCE = 2
"""Pages on their way at the same time; more would only take memory and the reader's turn."""

INDEXES_AT_ONCE = 2
"""Likewise, of layer indexes: an image of many layers would have them all in memory at once."""


class Outcome(enum.Enum):
    """What became of a store; one that was REFUSED would be refused again."""

    STORED = enum.auto()
    FAILED = enum.auto()
    REFUSED = enum.auto()


class Storer:
    """Stores one layer at a time, in `nursery`; a failure is store_layer's warning.

    With a token that may only read, the first store says so and the others are left out.
    """

    def __init__(
        self,
        cache: ContentStore,
        layout: Layout,
        keys: KeyRing,
        nursery: trio.Nursery,
        *,
        held: HeldClaims | None = None,
    ) -> None:
        """held  claims that keep others from downloading what is on its way"""
        self._cache = cache
        self._layout = layout
        self._keys = keys
        self._origins = OriginRecords(layout, keys)
        self._nursery = nursery
        self._held = held
        self._one = trio.CapacityLimiter(1)
        self._few = trio.CapacityLimiter(INDEXES_AT_ONCE)
        self._on_their_way: set[str] = set()
        self._idle = trio.Event()
        self._has_tried = False

    def store_soon(self, layer: IndexedLayer) -> None:
        """Never blocks and never fails: a reader must not wait for a store."""
        if layer.cache_key in self._on_their_way:
            return
        mark_storing(self._layout, layer.cache_key)
        self._on_their_way.add(layer.cache_key)
        if self._held is not None:
            self._held.hold(layer.layer)
        self._nursery.start_soon(self._store, layer)

    def publish_soon(self, layer: IndexedLayer) -> None:
        """Store records and index before the pages: who waits for another node's pass goes on."""
        self._nursery.start_soon(self._publish, layer)

    async def store_missing(self, layers: Iterable[IndexedLayer]) -> None:
        """Store what the content cache lacks of layers that are whole on this node."""
        for layer in layers:
            if not self._layout.payload(layer.cache_key).exists():
                continue
            if not await self._is_stored(layer):
                self.store_soon(layer)

    async def drain(self) -> None:
        """Return when nothing is on its way any more."""
        while self._on_their_way:
            await self._idle.wait()

    async def _is_stored(self, layer: IndexedLayer) -> bool:
        """Whether all of it is there: its index may be without its pages."""
        try:
            hosts = self._origins.hosts(layer.layer)
            if not await is_derived_stored(self._cache, layer, hosts, self._keys):
                return False
            for page in range(page_count(layer.index)):
                if await self._cache.lacking(page_key(layer.cache_key, page)):
                    return False
        except ContentCacheDown:
            return False  # the store will say so
        return True

    async def _publish(self, layer: IndexedLayer) -> bool:
        """Whether records and index are there now; if not, the store says why."""
        if not self._cache.may_store:
            return False
        try:
            async with self._few:
                hosts = self._origins.hosts(layer.layer)
                await store_derived(self._cache, layer, hosts, self._keys)
        except ContentCacheDown:
            return False
        return True

    async def _store(self, layer: IndexedLayer) -> None:
        outcome = Outcome.REFUSED
        try:
            is_published = await self._publish(layer)
            async with self._one:
                if self._cache.may_store or not self._has_tried:
                    self._has_tried = True
                    payload = self._layout.payload(layer.cache_key)
                    outcome = await store_layer(
                        self._cache,
                        self._keys,
                        layer,
                        payload,
                        hosts=self._origins.hosts(layer.layer),
                        is_published=is_published,
                        on_stored=self._held.stored if self._held else lambda _: None,
                    )
            if outcome is Outcome.FAILED:
                mark_failed(self._layout, layer.cache_key)
            else:
                unmark(self._layout, layer.cache_key)
            if self._held is not None:
                await self._held.release([layer.cache_key])
        finally:
            self._on_their_way.discard(layer.cache_key)
            if not self._on_their_way:
                self._idle.set()
                self._idle = trio.Event()


async def store_layer(
    cache: ContentStore,
    keys: KeyRing,
    layer: IndexedLayer,
    payload: Path,
    *,
    hosts: Collection[str] = (),
    is_published: bool = False,
    on_stored: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Store one layer; a failure is a warning, never an error.

    hosts         for which this node has an origin record of it
    is_published  its records and its index are there; else they come last
    on_stored     is told the bytes of each page that is there
    """
    fields = {"layer": layer.layer.digest, "cache_key": layer.cache_key}
    log.info("Storing decompressed layer in ContentCache (async)", **fields)
    begin = time.perf_counter()
    try:
        check_index_size(len(layer.index.chunk_digests))  # else nobody could read the pages
        fd = open_regular(payload)
        try:
            await _store_pages(cache, layer, fd, on_stored)
        finally:
            os.close(fd)
        if not is_published:
            await store_derived(cache, layer, hosts, keys)
    except (ContentCacheDown, OSError) as error:
        log.warning("layer was not stored in ContentCache", **fields, error=str(error))
        return Outcome.REFUSED if isinstance(error, ContentRefused) else Outcome.FAILED
    log.info(
        "Successfully stored decompressed layer in ContentCache",
        **fields,
        stored_hash=layer.cache_key,
        bytes=layer.index.payload_bytes,
        duration=time.perf_counter() - begin,
    )
    return Outcome.STORED


async def _store_pages(
    cache: ContentStore, layer: IndexedLayer, fd: int, on_stored: Callable[[int], None]
) -> None:
    pages = iter(range(page_count(layer.index)))
    failures: list[Exception] = []

    async def store() -> None:
        for page in pages:
            try:
                key = page_key(layer.cache_key, page)
                if lack := await cache.lacking(key):
                    data = await trio.to_thread.run_sync(_verified_page, layer.index, fd, page)
                    await cache.put(key, data, copies=lack)
                on_stored(layer.extent_of(chunks_of_page(layer.index, page)).length)
            except (ContentCacheDown, OSError) as error:
                failures.append(error)
            if failures:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(PAGES_AT_ONCE):
            nursery.start_soon(store)
    if failures:
        raise failures[0]


def _verified_page(index: LayerIndex, fd: int, page: int) -> bytes:
    """One page of the payload; OSError if the disk has changed what was verified."""
    data = os.pread(fd, PAGE_BYTES, page * PAGE_BYTES)
    wrong = first_wrong_chunk(index, chunks_of_page(index, page), data)
    if wrong is not None:
        raise OSError(f"the payload on disk is damaged, in chunk {wrong}")
    return data
