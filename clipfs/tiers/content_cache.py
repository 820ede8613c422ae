"""The middle tier: ranges of pages from the content cache, every chunk checked.

A layer is pages of 8 MiB under `sha256_<layer>/<number>` and its sealed index under
`sha256_<layer>.v1.toc`, which may be there before them. Whatever is wrong with an answer is a
miss: the next tier is asked, and nobody's read fails.

Not here: HTTP and replicas (`clipfs.tiers.content`); storing (`clipfs.tiers.storing`).
"""

import time
from collections.abc import Callable

import structlog

from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import layer_index_name
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import open_index
from clipfs.tiers.content.store import ContentCacheDown, ContentStore
from clipfs.tiers.tier import Extent, IndexedLayer, Payload
from clipfs.tiers.verify import first_wrong_chunk

log = structlog.get_logger()

PAGE_BYTES = 8 << 20
"""Payload bytes of one object: large enough for few objects, small enough to be spread."""


def page_key(cache_key: str, page: int) -> str:
    return f"{cache_key}/{page:06d}"


def page_count(index: LayerIndex) -> int:
    return -(-index.payload_bytes // PAGE_BYTES)


class ContentCacheTier:
    """Layers in the content cache; `keys` open the indexes that nodes sealed."""

    fills_disk = False

    def __init__(
        self,
        cache: ContentStore,
        keys: KeyRing,
        *,
        waits: bool = False,
        on_received: Callable[[int], None] = lambda _: None,
        on_unverified: Callable[[], None] = lambda: None,
        on_read: Callable[[Layer], None] = lambda _: None,
    ) -> None:
        """waits        for pages, while a cache restarts, as they would be dear elsewhere
        on_received  is told the payload bytes of each answer, indexes apart
        on_unverified  is called for each index and each read that is not what it should be
        on_read      is told of each read that was answered
        """
        self._cache = cache
        self._keys = keys
        self._waits = waits
        self._on_received = on_received
        self._on_unverified = on_unverified
        self._on_read = on_read

    async def look_for_index(self, layer: Layer) -> LayerIndex | None:
        """The index that another node is about to store, if it is there by now."""
        sealed = await self._get(layer_index_name(layer.cache_key), None, dear=True)
        found = open_index(bytes(sealed), layer, self._keys) if sealed is not None else None
        if sealed is None or found is None:
            return None
        log.debug(
            "CONTENT CACHE HIT - range read from remote",
            layer=layer.digest,
            cache_key=layer.cache_key,
            bytes_read=len(sealed),
        )
        return found[0]

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        fields = {"layer": layer.digest, "cache_key": layer.cache_key}
        log.debug("Trying ContentCache range read", **fields)
        begin = time.perf_counter()
        sealed = await self._get(layer_index_name(layer.cache_key), None)
        found = open_index(bytes(sealed), layer, self._keys) if sealed is not None else None
        if sealed is None or found is None:
            if sealed is not None:
                self._on_unverified()
                log.warning("layer index from the content cache does not verify", **fields)
            log.debug("ContentCache miss - will decompress from OCI", **fields)
            return None
        log.debug(
            "CONTENT CACHE HIT - range read from remote",
            **fields,
            bytes_read=len(sealed),
            duration=time.perf_counter() - begin,
        )
        return found[0]

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        fields = {
            "layer": layer.layer.digest,
            "cache_key": layer.cache_key,
            "offset": extent.offset,
            "length": extent.length,
        }
        log.debug("Trying ContentCache range read", **fields)
        begin = time.perf_counter()
        data = await self._read_chunks(layer, extent.chunks())
        if data is None:
            log.debug("ContentCache miss - will decompress from OCI", **fields)
            return None
        log.debug(
            "CONTENT CACHE HIT - range read from remote",
            **fields,
            bytes_read=len(data),
            duration=time.perf_counter() - begin,
        )
        self._on_read(layer.layer)
        start = extent.offset - extent.chunks().start * CHUNK_BYTES
        if start == 0 and len(data) == extent.length:
            return data
        return data[start : start + extent.length]

    async def has(self, layer: IndexedLayer, extent: Extent) -> bool:
        """Whether a second look finds the bytes, and right; what was wrong has been told."""
        chunks = extent.chunks()
        data = await self._received(layer, chunks)
        return data is not None and first_wrong_chunk(layer.index, chunks, data) is None

    async def _read_chunks(self, layer: IndexedLayer, chunks: range) -> bytearray | None:
        """The verified payload of whole chunks."""
        data = await self._received(layer, chunks)
        wrong = first_wrong_chunk(layer.index, chunks, data) if data is not None else None
        if wrong is not None:
            self._on_unverified()
            log.warning(
                "content cache sent wrong bytes, they are not used",
                cache_key=layer.cache_key,
                chunk=wrong,
            )
            return None
        return data

    async def _received(self, layer: IndexedLayer, chunks: range) -> bytearray | None:
        """What the content cache has as the payload of whole chunks, page by page."""
        data = bytearray()
        end = min(chunks.stop * CHUNK_BYTES, layer.index.payload_bytes)
        at = chunks.start * CHUNK_BYTES
        while at < end:
            page, start = divmod(at, PAGE_BYTES)
            count = min(end - at, PAGE_BYTES - start)
            wanted = range(start, start + count)
            part = await self._get(page_key(layer.cache_key, page), wanted, dear=self._waits)
            if part is None:
                return None
            self._on_received(len(part))
            data = data + part if data else part
            at += count
        return data

    async def _get(self, key: str, part: range | None, *, dear: bool = False) -> bytearray | None:
        try:
            found = await self._cache.get(key, part=part, dear=dear)
            return None if found is None else found.data
        except ContentCacheDown as down:
            log.debug("content cache gave no answer", key=key, error=str(down))
            return None
