"""The middle tier: ranges of pages from the content cache, every chunk checked.

Whatever is wrong with an answer is a miss: the next copy is asked, then the next tier, and nobody's
read fails. A wrong page is removed where it was read, so that nobody else meets it. What is missing
in one copy and right in another is put back behind the readers' backs, and a layer index or an
origin record that does not verify, or verifies with an older key, is replaced by one that this
node has signed. A layer's index may be there before its pages.

Not here: HTTP and replicas (`clipfs.tiers.content`); storing (`clipfs.tiers.storer`); how indexes
and records are mended (`clipfs.tiers.derived_reader`).
"""

import time
from collections.abc import Callable
from functools import partial

import trio

from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import image_index_name
from clipfs.layer.origin import record_name
from clipfs.layer.seal import KeyRing
from clipfs.log import log
from clipfs.tiers.blame import Blame
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.store import ContentCacheDown, ContentStore, Found
from clipfs.tiers.derived import (
    image_index_of,
    index_of,
    origin_of,
    store_image_index,
    store_origin,
)
from clipfs.tiers.derived_reader import DerivedReader, found_in
from clipfs.tiers.pages import by_page, chunks_of_page, page_key, within_page
from clipfs.tiers.tier import Extent, IndexedLayer, OnRead, Payload
from clipfs.tiers.verify import first_wrong_chunk

REMOVE_WITHIN_S = 0.5
"""A reader waits so long for a wrong page to go, before the next copy is asked."""


class ContentCacheTier:
    """Layers in the content cache; `keys` open the indexes that nodes sealed."""

    fills_disk = False

    def __init__(
        self,
        cache: ContentStore,
        keys: KeyRing,
        *,
        mender: Mender | None = None,
        waits: bool = False,
        on_received: OnRead = lambda *_: None,
        on_unverified: Callable[[], None] = lambda: None,
        on_read: Callable[[Layer], None] = lambda _: None,
    ) -> None:
        """mender         None: nothing is put back
        waits          for pages, while a cache restarts, as they would be dear elsewhere
        on_received    is told the payload bytes of each answer, indexes apart, and its seconds
        on_unverified  is called for each answer that is not what it should be
        on_read        is told of each read that was answered
        """
        self._cache = cache
        self._keys = keys
        self._mender = mender
        self._derived = DerivedReader(cache, mender, on_unverified)
        self._blame = Blame()
        self._waits = waits
        self._on_received = on_received
        self._on_unverified = on_unverified
        self._on_read = on_read

    async def look_for_index(self, layer: Layer, dear: bool) -> LayerIndex | None:
        """The index that another node is about to store, if it is there by now.

        dear  as of `ContentStore.get`
        """
        loaded = await self._derived.look(index_of(layer, self._keys), dear=dear)
        if loaded is None:
            return None
        index, received_bytes = loaded
        log.debug(
            "CONTENT CACHE HIT - range read from remote",
            layer=layer.digest,
            cache_key=layer.cache_key,
            bytes_read=received_bytes,
        )
        return index

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        fields = {"layer": layer.digest, "cache_key": layer.cache_key}
        log.debug("Trying ContentCache range read", **fields)
        begin = time.perf_counter()
        loaded = await self._derived.load(index_of(layer, self._keys))
        if loaded is None:
            log.debug("ContentCache miss - will decompress from OCI", **fields)
            return None
        index, received_bytes = loaded
        log.debug(
            "CONTENT CACHE HIT - range read from remote",
            **fields,
            bytes_read=received_bytes,
            duration=time.perf_counter() - begin,
        )
        return index

    async def load_image_index(self, image: Digest) -> bytes | None:
        """The packed index of the image whose manifest has this digest; None is a miss."""
        loaded = await self._derived.load(image_index_of(image, self._keys))
        return None if loaded is None else loaded[0]

    def share_image_index(self, image: Digest, packed: Callable[[], bytes | None]) -> None:
        """Store what packed, called in a thread, returns, behind everybody's back.

        packed  None if there is nothing that can be stored
        """

        async def store() -> None:
            content = await trio.to_thread.run_sync(packed)
            if content is not None:
                await store_image_index(self._cache, image, content, self._keys)

        if self._mender is not None:
            self._mender.soon(image_index_name(cache_key(image)), store, spread=False)

    async def has_origin(self, layer: Layer, host: str) -> bool:
        """Whether a record there says that the blob was delivered for host; else nobody knows."""
        return await self._derived.load(origin_of(layer, host, self._keys)) is not None

    def share_origin(self, layer: Layer, host: str) -> None:
        """Store a record that this node has just earned, behind everybody's back."""
        if self._mender is not None:
            key = record_name(layer.cache_key, host)
            store = partial(store_origin, self._cache, layer, host, self._keys)
            self._mender.soon(key, store, spread=False)

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        fields = {
            "layer": layer.layer.digest,
            "cache_key": layer.cache_key,
            "offset": extent.offset,
            "length": extent.length,
        }
        log.debug("Trying ContentCache range read", **fields)
        begin = time.perf_counter()
        data = bytearray()
        for page, chunks in by_page(extent.chunks()):
            part = await self._read_in_page(layer, page, chunks)
            if part is None:
                log.debug("ContentCache miss - will decompress from OCI", **fields)
                return None
            data = data + part if data else part  # of one page, as mostly: no copy
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
        """Whether a second look finds the bytes, and right; it tries what was found down, too."""
        for page, chunks in by_page(extent.chunks()):
            if await self._read_in_page(layer, page, chunks, probes=self._waits) is None:
                return False
        return True

    async def _read_in_page(
        self, layer: IndexedLayer, page: int, chunks: range, *, probes: bool = False
    ) -> bytearray | None:
        """The verified payload of whole chunks of one page, from the first copy that is right."""
        key, part = page_key(layer.cache_key, page), within_page(layer.index, page, chunks)
        wrong: list[Found] = []
        begin = time.perf_counter()
        while found := await found_in(
            self._cache, key, part, besides=wrong, dear=self._waits, probes=probes
        ):
            self._on_received(len(found.data), time.perf_counter() - begin)
            at = first_wrong_chunk(layer.index, chunks, found.data)
            if at is None:
                self._blame.right(found.copy)
                if (wrong or found.is_alone) and self._mender is not None:
                    self._mender.soon(key, partial(self._put_page, layer, page))
                return found.data
            log.warning(
                "content cache sent wrong bytes, they are not used",
                cache_key=layer.cache_key,
                chunk=at,
                copy=found.copy,
            )
            self._on_unverified()
            wrong.append(found)
            await self._remove(key, found)
            begin = time.perf_counter()
        return None

    async def _remove(self, key: str, wrong: Found) -> None:
        """Take this copy of a page away, if it still is the one that was read.

        Not if this node may be what is at fault.
        """
        if not wrong.etag or not self._cache.may_store:
            return
        if not self._blame.wrong(key, wrong.copy):
            return
        with trio.move_on_after(REMOVE_WITHIN_S):
            try:
                await self._cache.delete(key, etag=wrong.etag, copies=[wrong.copy])
            except ContentCacheDown as error:
                log.warning("a wrong page was not removed", key=key, error=str(error))

    async def _put_page(self, layer: IndexedLayer, page: int) -> None:
        """Store a page where a copy of it is missing, from one that is right."""
        key = page_key(layer.cache_key, page)
        if lack := await self._cache.lacking(key):
            chunks = chunks_of_page(layer.index, page)
            if (data := await self._read_in_page(layer, page, chunks)) is not None:
                await self._cache.put(key, memoryview(data), copies=lack)
                log.info("a missing page was put back", key=key, bytes=len(data))
