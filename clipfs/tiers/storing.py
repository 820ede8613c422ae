"""Stores a finished layer in the content cache: its pages, then its sealed index.

From the verified file in `cache/` only, so that a hostile image cannot poison a key that
another image reads, and each page verified once more, since a disk may fail. The index comes
last: whoever finds it may expect the pages.
"""

import os
import time
from pathlib import Path

import structlog
import trio

from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import layer_index_name
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import seal_index
from clipfs.tiers.content_cache import PAGE_BYTES, page_key
from clipfs.tiers.content_client import ContentCache, ContentCacheDown
from clipfs.tiers.tier import IndexedLayer
from clipfs.tiers.verify import first_wrong_chunk

log = structlog.get_logger()

PAGES_AT_ONCE = 2
"""Pages on their way at the same time; more would only take memory and the reader's turn."""


async def store_layer(
    cache: ContentCache, keys: KeyRing, layer: IndexedLayer, payload: Path
) -> bool:
    """Whether the layer is in the content cache now; a failure is a warning, never an error."""
    fields = {"layer": layer.layer.digest, "cache_key": layer.cache_key}
    log.info("Storing decompressed layer in ContentCache (async)", **fields)
    begin = time.perf_counter()
    try:
        with payload.open("rb") as file:
            await _store_pages(cache, layer, file.fileno())
        sealed = seal_index(layer.index, layer.layer, keys)
        await cache.put(layer_index_name(layer.cache_key), sealed)
    except (ContentCacheDown, OSError) as error:
        log.warning("layer was not stored in ContentCache", **fields, error=str(error))
        return False
    log.info(
        "Successfully stored decompressed layer in ContentCache",
        **fields,
        stored_hash=layer.cache_key,
        bytes=layer.index.payload_bytes,
        duration=time.perf_counter() - begin,
    )
    return True


async def _store_pages(cache: ContentCache, layer: IndexedLayer, fd: int) -> None:
    pages = iter(range(-(-layer.index.payload_bytes // PAGE_BYTES)))
    failures: list[Exception] = []

    async def store() -> None:
        for page in pages:
            try:
                data = await trio.to_thread.run_sync(_verified_page, layer.index, fd, page)
                await cache.put(page_key(layer.cache_key, page), data)
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
