"""Stores finished layers in the content cache, behind the readers' backs.

From the verified file in `cache/` only, so that a hostile image cannot poison a key that
another image reads, and each page verified once more, since a disk may fail. A layer's index
is published at once, for those who wait for it; its pages follow, one layer after the other.
Until they are there the layer is claimed, so that whoever misses one waits for it.

Not here: the marks that outlive a process (`clipfs.tiers.storing`).
"""

import enum
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import structlog
import trio

from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import Layout, layer_index_name
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import seal_index
from clipfs.system.cached import open_regular
from clipfs.tiers.content.store import ContentCacheDown, ContentRefused, ContentStore
from clipfs.tiers.content_cache import PAGE_BYTES, page_count, page_key
from clipfs.tiers.held_claims import HeldClaims
from clipfs.tiers.storing import mark_failed, mark_storing, unmark
from clipfs.tiers.tier import IndexedLayer
from clipfs.tiers.verify import first_wrong_chunk

log = structlog.get_logger()

PAGES_AT_ONCE = 2
"""Pages on their way at the same time; more would only take memory and the reader's turn."""


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
        self._nursery = nursery
        self._held = held
        self._one = trio.CapacityLimiter(1)
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
        """Store the index before its pages: those who wait for another node's pass go on."""
        self._nursery.start_soon(self._publish, layer)

    async def store_missing(self, layers: Iterable[IndexedLayer]) -> None:
        """Store those of layers that are whole on this node and not in the content cache."""
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
        pages = range(page_count(layer.index))
        keys = [layer_index_name(layer.cache_key), *(page_key(layer.cache_key, n) for n in pages)]
        try:
            for key in keys:
                if await self._cache.get(key, part=range(1)) is None:
                    return False
        except ContentCacheDown:
            return False  # the store will say so
        return True

    async def _publish(self, layer: IndexedLayer) -> bool:
        """Whether the index is there now; if not, the store says why."""
        if not self._cache.may_store:
            return False
        seal = partial(seal_index, layer.index, layer.layer, self._keys, packed=True)
        sealed = await trio.to_thread.run_sync(seal)
        try:
            await self._cache.put(layer_index_name(layer.cache_key), sealed)
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
    is_published: bool = False,
    on_stored: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Store one layer; a failure is a warning, never an error.

    is_published  its index is there; else that comes last
    on_stored     is told the bytes of each page that is there
    """
    fields = {"layer": layer.layer.digest, "cache_key": layer.cache_key}
    log.info("Storing decompressed layer in ContentCache (async)", **fields)
    begin = time.perf_counter()
    try:
        fd = open_regular(payload)
        try:
            await _store_pages(cache, layer, fd, on_stored)
        finally:
            os.close(fd)
        if not is_published:
            seal = partial(seal_index, layer.index, layer.layer, keys, packed=True)
            sealed = await trio.to_thread.run_sync(seal)
            await cache.put(layer_index_name(layer.cache_key), sealed)
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
                data = await trio.to_thread.run_sync(_verified_page, layer.index, fd, page)
                await cache.put(page_key(layer.cache_key, page), data)
                on_stored(len(data))
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
    first = page * PAGE_BYTES // CHUNK_BYTES
    chunks = range(first, min(first + PAGE_BYTES // CHUNK_BYTES, index.chunk_count))
    wrong = first_wrong_chunk(index, chunks, data)
    if wrong is not None:
        raise OSError(f"the payload on disk is damaged, in chunk {wrong}")
    return data
