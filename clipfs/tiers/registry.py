"""The last tier: the whole layer from the registry, downloaded, inflated, verified, on disk.

A registry cannot be asked for a range of a payload, so a read starts the layer's fill and is
answered as soon as its own chunks are verified; the fill goes on behind it. One fill a layer and
registry at a time on a node, whichever process runs it: the others watch the chunk map. One in the
cluster, where the content cache keeps claims (`clipfs.tiers.sharing`).

Not here: the passes (`clipfs.tiers.pass_over_hosts`); storing in the content cache.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.origin import record_name
from clipfs.layer.partial import filling, publish_first_pass
from clipfs.log import log
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.pass_over_hosts import Passes
from clipfs.tiers.sharing import Sharing
from clipfs.tiers.tier import AskAgain, Extent, IndexedLayer, Payload

WATCH_INTERVAL_S = 0.02
"""How often another process's fill is looked at; a reader waits half of it in the mean."""


@dataclass(slots=True, eq=False)
class _Fill:
    """A fill that readers wait for; `pulse` is set and replaced whenever chunks arrived."""

    pulse: trio.Event = field(default_factory=trio.Event)
    done: bool = False
    error: Exception | None = None

    def beat(self) -> None:
        self.pulse.set()
        self.pulse = trio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHooks:
    """Who wants to know: a read answered, after so many seconds; bytes downloaded; a layer's index
    made; a whole payload."""

    on_read: Callable[[float], None]
    on_download: Callable[[int], None]
    on_indexed: Callable[[], None]
    on_filled: Callable[[IndexedLayer], None]


class RegistryTier:
    """Reads layers of one image; fills run in `nursery`, which must outlive every read."""

    fills_disk = True

    def __init__(
        self,
        passes: Passes,
        disk: DiskTier,
        nursery: trio.Nursery,
        *,
        hooks: RegistryHooks,
        sharing: Sharing | None,
    ) -> None:
        """sharing  with the cluster's other nodes; None: there are none"""
        self._passes = passes
        self._disk = disk
        self._nursery = nursery
        self._hooks = hooks
        self._sharing = sharing
        self._fills: dict[str, _Fill] = {}

    async def load_index(self, layer: Layer) -> LayerIndex | None:
        """Never a miss: a first pass leaves index and payload here; another node's, the index."""
        while True:
            with filling(self._disk.layout, layer.cache_key, self._record(layer)) as mine:
                index = await self._disk.load_index(layer)
                if index is None and mine:
                    index = await self._brought(layer)
            if index is not None:
                return index
            await trio.sleep(WATCH_INTERVAL_S)

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None:
        """The bytes once their chunks are there; raises what ended the fill without them.

        Raises  AskAgain: another node brings the layer, or the content cache has the bytes by now
        """
        begin = time.perf_counter()
        while self._disk.missing(layer, extent.chunks()):
            fill = self._fill(layer, extent)
            pulse = fill.pulse
            if self._disk.missing(layer, extent.chunks()):  # none came before we held the pulse
                await pulse.wait()
            if fill.error is not None and self._disk.missing(layer, extent.chunks()):
                if await self._is_elsewhere(layer, extent, fill.error):
                    raise AskAgain
                raise fill.error
        data = await self._disk.peek(layer, extent)
        self._hooks.on_read(time.perf_counter() - begin)
        return data

    async def settled(self, layer: IndexedLayer) -> None:
        """Return when no fill of the layer runs here any more, whatever came of it."""
        fill = self._fills.get(layer.cache_key)
        while fill is not None and not fill.done:
            await fill.pulse.wait()

    async def complete(self, layer: IndexedLayer, *, missed: Extent | None = None) -> None:
        """Return when the whole payload is in `cache/`.

        missed  bytes that the content cache did not have; AskAgain if another node brings them
        """
        while not self._disk.has_payload(layer):
            fill = self._fill(layer, missed)
            while not fill.done:
                await fill.pulse.wait()
            if fill.error is not None and not (missed is None and isinstance(fill.error, AskAgain)):
                raise fill.error

    def _record(self, layer: Layer) -> str:
        """The name of what a pass over the layer earns."""
        return record_name(layer.cache_key, self._passes.reference.registry)

    async def _brought(self, layer: Layer) -> LayerIndex:
        """The index that another node stores, if one brings the layer; else a first pass's."""
        if self._sharing is None:
            async with self._passes.workers:
                return await self._first_pass(layer)
        index, is_anothers = await self._sharing.index_of(
            layer, self._first_pass, passes=self._passes.workers
        )
        if is_anothers:
            self._disk.save_index(layer, index)
        return index

    async def _first_pass(self, layer: Layer) -> LayerIndex:
        layout = self._disk.layout
        path = layout.first_pass(self._record(layer))
        path.unlink(missing_ok=True)  # of a killed process, whose worker may still write to it
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            result = await self._passes.run(
                layer, payload_fd=fd, on_download=self._hooks.on_download
            )
            self._disk.save_index(layer, result.index)
            await trio.to_thread.run_sync(publish_first_pass, layout, layer.cache_key, path)
        except BaseException:
            path.unlink(missing_ok=True)
            await self._give_up(layer)
            raise
        finally:
            os.close(fd)
        self._hooks.on_indexed()
        self._hooks.on_filled(IndexedLayer(layer=layer, index=result.index))
        return result.index

    def _fill(self, layer: IndexedLayer, wanted: Extent | None) -> _Fill:
        fill = self._fills.get(layer.cache_key)
        if fill is None or fill.done:
            fill = self._fills[layer.cache_key] = _Fill()
            self._nursery.start_soon(self._run_fill, layer, fill, wanted)
        return fill

    async def _is_elsewhere(self, layer: IndexedLayer, extent: Extent, error: Exception) -> bool:
        """Whether the content cache, which had not the bytes before the fill failed, has them."""
        if self._sharing is None or not (isinstance(error, errors.ClipError) and error.transient):
            return False
        return await self._sharing.has_after_all(layer, extent)

    async def _run_fill(self, layer: IndexedLayer, fill: _Fill, wanted: Extent | None) -> None:
        try:
            while not self._disk.has_payload(layer):
                record = self._record(layer.layer)
                with filling(self._disk.layout, layer.cache_key, record) as mine:
                    if mine:
                        await self._fill_here(layer, fill, wanted)
                if not mine:
                    await trio.sleep(WATCH_INTERVAL_S)
                    fill.beat()
        except AskAgain as error:
            assert self._sharing is not None
            await self._sharing.pause(layer.layer)
            fill.error = error
        except (errors.ClipError, OSError) as error:
            log.warning("fill of a layer failed", cache_key=layer.cache_key, error=str(error))
            fill.error = errors.node_fault(error) if isinstance(error, OSError) else error
        except Exception as error:  # the readers get it; the nursery, and so the mount, lives on
            log.exception("fill of a layer failed", cache_key=layer.cache_key)
            fill.error = error
        finally:
            fill.done = True
            fill.beat()

    async def _fill_here(self, layer: IndexedLayer, fill: _Fill, wanted: Extent | None) -> None:
        def on_download(count: int) -> None:
            self._hooks.on_download(count)
            fill.beat()

        try:
            partial = self._disk.partial(layer)
            if not partial.is_complete():
                async with self._passes.workers:
                    if self._sharing is not None:
                        await self._sharing.check_turn(layer, wanted)
                    await self._passes.run(
                        layer.layer,
                        payload_fd=partial.payload_fd,
                        map_fd=partial.map_fd,
                        index=layer.index,
                        on_download=on_download,
                    )
            await self._disk.promote(layer)
        except BaseException:
            await self._give_up(layer.layer)
            raise
        self._hooks.on_filled(layer)

    async def _give_up(self, layer: Layer) -> None:
        """Let another node have its turn."""
        if self._sharing is not None:
            await self._sharing.held.release([layer.cache_key])
