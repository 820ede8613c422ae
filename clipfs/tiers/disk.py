"""The nearest tier: complete payloads in `cache/`, and the chunks that `partial/` has so far.

The only tier that is written to: what a farther tier delivers is stored here, verified, and
read back from here. Reads that the page cache can answer cost one system call on the trio
thread; the others go to a thread, since a disk may block.

What the disk refuses, for want of space above all, is DiskFull or NodeFault from here on.

Not here: eviction (`clipfs.cache`); the full pass (`clipfs.layer`).
"""

import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Self

import trio

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.layout import Layout
from clipfs.layer.partial import Partial
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import open_index, seal_index
from clipfs.log import log
from clipfs.system.cached import is_unreadable, open_cached, read_cached, set_aside
from clipfs.system.durable import write_atomically
from clipfs.tiers.origins import OriginRecords
from clipfs.tiers.tier import Extent, IndexedLayer, OnRead, Payload


class DiskTier:
    """One node's `--root`, as seen by one process; open it with `DiskTier.open`."""

    fills_disk = True

    def __init__(
        self, layout: Layout, keys: KeyRing, nursery: trio.Nursery, on_read: OnRead
    ) -> None:
        self.layout = layout
        self.origins = OriginRecords(layout, keys)
        self._keys = keys
        self._unverified: set[str] = set()  # cache keys of indexes that a warning has told of
        self._nursery = nursery
        self._on_read = on_read
        self._complete: dict[str, int] = {}  # cache key -> descriptor
        self._unreadable: dict[str, int] = {}  # set aside, still open
        self._partial: dict[str, Partial] = {}
        self._outlived: list[Partial] = []  # of payloads set aside, still open
        self._promoting: dict[str, trio.Lock] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, layout: Layout, keys: KeyRing, *, on_read: OnRead = lambda *_: None
    ) -> AsyncIterator[Self]:
        """The block's end waits for payloads that have just become complete.

        on_read  is told the bytes of each read that this tier answered, and its seconds
        """
        with ExitStack() as closing:
            async with trio.open_nursery() as nursery:
                tier = cls(layout, keys, nursery, on_read)
                closing.callback(tier._close)
                yield tier

    def _close(self) -> None:
        for fd in (*self._complete.values(), *self._unreadable.values()):
            os.close(fd)
        for partial in self._partial.values():
            try:
                partial.sync()
            except OSError as error:
                log.warning("chunks are lost", cache_key=partial.key, error=str(error))
            partial.close()
        for partial in self._outlived:
            partial.close()

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        sealed = read_cached(self.layout.layer_index(layer.cache_key))
        if sealed is None:
            return None
        found = open_index(sealed, layer, self._keys)
        key = layer.cache_key
        if found is None:
            if key not in self._unverified:  # who waits for its pass looks again and again
                log.warning("layer index does not verify, it is made again", cache_key=key)
            self._unverified.add(key)
            return None
        index, renew = found
        if renew:
            try:
                self.save_index(layer, index)
            except (errors.DiskFull, errors.NodeFault) as error:  # it is right all the same
                log.warning("layer index is not signed again", cache_key=key, error=str(error))
        return index

    def save_index(self, layer: Layer, index: LayerIndex, *, durable: bool = True) -> None:
        """Seal and store a layer index.

        durable  False: it can be had again where it came from; its seal tells a torn one
        """
        sealed = seal_index(index, layer, self._keys)
        with _refusals_named():
            write_atomically(self.layout.layer_index(layer.cache_key), sealed, durable=durable)

    def has_payload(self, layer: IndexedLayer) -> bool:
        """Whether `cache/` holds the whole payload."""
        return self._open_complete(layer) is not None

    def missing(self, layer: IndexedLayer, chunks: range) -> list[range]:
        """The runs of chunks that neither `cache/` nor `partial/` holds; a full disk lacks all."""
        if self._open_complete(layer) is not None:
            return []
        try:
            return self.partial(layer).missing(chunks)
        except (errors.DiskFull, errors.NodeFault):
            return [chunks]

    def partial(self, layer: IndexedLayer) -> Partial:
        """The layer's partial payload, made if absent; this tier closes it."""
        known = self._partial.get(layer.cache_key)
        if known is None:
            payload_bytes = layer.index.payload_bytes
            with _refusals_named():
                known = Partial(self.layout, layer.cache_key, payload_bytes=payload_bytes)
            self._partial[layer.cache_key] = known
            if known.is_complete():  # by a process that died before it could say so
                self._nursery.start_soon(self._promote_behind_readers, layer)
        return known

    def write(self, layer: IndexedLayer, chunks: range, data: Payload) -> None:
        """Store verified chunks; the last missing one turns the partial into the payload."""
        partial = self.partial(layer)
        with _refusals_named():
            partial.write(chunks, data)
        if partial.is_complete():
            self._nursery.start_soon(self._promote_behind_readers, layer)

    async def promote(self, layer: IndexedLayer) -> None:
        """Return when the complete partial payload is in `cache/`, whoever put it there."""
        async with self._promoting.setdefault(layer.cache_key, trio.Lock()):
            if not self.has_payload(layer):
                with _refusals_named():
                    await trio.to_thread.run_sync(self.partial(layer).promote)

    async def _promote_behind_readers(self, layer: IndexedLayer) -> None:
        """A disk that refuses costs the next mount a look, no reader anything."""
        try:
            await self.promote(layer)
        except (errors.DiskFull, errors.NodeFault) as error:
            key = layer.cache_key
            log.warning("payload was not made complete", cache_key=key, error=str(error))

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        begin = time.perf_counter()
        data = await self.peek(layer, extent)
        if data is None:
            return None
        seconds = time.perf_counter() - begin
        self._on_read(len(data), seconds)
        log.debug(
            "DISK CACHE HIT - using local decompressed layer",
            layer=layer.layer.digest,
            cache_key=layer.cache_key,
            offset=extent.offset,
            length=extent.length,
            bytes_read=len(data),
            duration=seconds,
        )
        return data

    async def peek(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        """As `read`, uncounted and unlogged: for bytes that another tier has just brought."""
        fd = self._open_complete(layer)
        if fd is None:
            if self.missing(layer, extent.chunks()):
                return None
            fd = self.partial(layer).payload_fd
        with _refusals_named():
            try:
                data = await _read_exactly(fd, extent)
            except OSError as error:
                if not self._is_set_aside(layer, fd, error):
                    raise
                return None
        if data is None:
            raise errors.NodeFault(f"payload {layer.cache_key} is shorter than it was")
        return data

    def _is_set_aside(self, layer: IndexedLayer, fd: int, error: OSError) -> bool:
        """Whether a complete payload that cannot be read is a miss from now on.

        Once a layer: a disk that cannot read what it has just taken must not be asked for ever.
        Others may be reading by the descriptors, so that they stay open to the end.
        """
        key = layer.cache_key
        if self._unreadable.get(key) == fd:
            return True  # another reader has met it
        if not is_unreadable(error) or key in self._unreadable or fd != self._complete.get(key):
            return False
        self._unreadable[key] = self._complete.pop(key)
        if key in self._partial:  # its file is the payload now
            self._outlived.append(self._partial.pop(key))
        set_aside(self.layout.payload(key), error.strerror or str(error))
        return True

    def _open_complete(self, layer: IndexedLayer) -> int | None:
        fd = self._complete.get(layer.cache_key)
        if fd is not None:
            return fd
        path = self.layout.payload(layer.cache_key)
        fd = open_cached(path)
        if fd is None:
            return None
        if os.fstat(fd).st_size != layer.index.payload_bytes:
            os.close(fd)
            set_aside(path, "it has a wrong length")
            return None
        self._complete[layer.cache_key] = fd
        return fd


@contextmanager
def _refusals_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.node_fault(error) from error


async def _read_exactly(fd: int, extent: Extent) -> Payload | None:
    data = bytearray(extent.length)
    view = memoryview(data)
    try:
        done = os.preadv(fd, [view], extent.offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
            raise
        done = 0
    if done < extent.length:
        done += await trio.to_thread.run_sync(_pread_rest, fd, view[done:], extent.offset + done)
    return data if done == extent.length else None


def _pread_rest(fd: int, view: memoryview, offset: int) -> int:
    total = 0
    while view and (done := os.preadv(fd, [view], offset)):
        view, offset, total = view[done:], offset + done, total + done
    return total
