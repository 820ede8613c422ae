"""Background fill: the rest of a layer comes to `cache/` behind the readers' backs.

    async with filling(tiers, layers, settings, told) as reader:
        await reader.read(layer, extent)      # the front's reads: noted, and always first

Of all layers, or of those that a read has touched. One process on a node fills at a time. It
takes no more room than the node's limits leave, and nothing is evicted for it. What goes wrong
costs nobody anything: one warning, and a wait that grows. Nothing outlives the process but what
it has brought.

Not here: how a layer is filled (`clipfs.tiers.layer_fill`); what room there is
(`clipfs.cache.room`).
"""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import trio

from clipfs import errors
from clipfs.layer.partial import fill_lock
from clipfs.log import log
from clipfs.system.locks import alone
from clipfs.tiers.chain import TierChain
from clipfs.tiers.content.store import ContentCacheDown
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.foreground import Foreground
from clipfs.tiers.layer_fill import FarTiers, LayerFill, Room, Source
from clipfs.tiers.stack import Tiers
from clipfs.tiers.tier import Extent, FillState, IndexedLayer, Payload, Reader

WATCH_S = 0.2
"""How often it is looked whether another process still fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillSettings:
    """What an administrator decides.

    which          layers: those that a read has touched since the mount, or all
    room_bytes     how much more may be taken of the node's disk; called in a thread
    first_retry_s  the wait after a failure, doubled each time until it is most_retry_s
    """

    which: Literal["touched", "all"]
    room_bytes: Callable[[], int]
    first_retry_s: float = 5
    most_retry_s: float = 600


class Told(Protocol):
    """Who wants to know, for `clipfs stats`."""

    def fill_is(self, state: FillState) -> None: ...

    def fill_brought(self, count: int) -> None:
        """So many bytes of payload more."""

    def fill_completed(self) -> None:
        """One layer more is whole."""


@asynccontextmanager
async def filling(
    tiers: Tiers, layers: Sequence[IndexedLayer], settings: FillSettings | None, told: Told
) -> AsyncIterator[Reader]:
    """What to read through; behind it layers are filled, until the block ends. None: none are."""
    if settings is None:
        yield tiers.ahead
        return
    with Foreground.open(tiers.disk.layout) as foreground:
        fill = BackgroundFill(
            tiers.ahead,
            tiers.chain,
            tiers.disk,
            FarTiers(tiers),
            layers,
            settings,
            foreground,
            told,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill.run)
            yield fill
            nursery.cancel_scope.cancel()


class BackgroundFill:
    """Reads that go first, and `run`, which fills behind them."""

    def __init__(
        self,
        reader: Reader,
        chain: TierChain,
        disk: DiskTier,
        source: Source,
        layers: Sequence[IndexedLayer],
        settings: FillSettings,
        foreground: Foreground,
        told: Told,
    ) -> None:
        self._reader = reader
        self._disk = disk
        self._settings = settings
        self._told = told
        self._foreground = foreground
        self._room = Room(settings.room_bytes)
        self._layer_fill = LayerFill(
            chain,
            disk,
            source,
            foreground=foreground,
            room=self._room,
            on_brought=told.fill_brought,
        )
        self._touched: set[str] = set()
        self._wanted: dict[str, IndexedLayer] = {}
        if settings.which == "all":
            self._wanted = {layer.cache_key: layer for layer in layers}
        self._more = trio.Event()
        self._failed: dict[str, FillState] = {}  # by cache key, what each waits for
        self._retry_s = 0.0
        self._retry_at = math.inf

    async def read(self, layer: IndexedLayer, extent: Extent, *, follows: int = 0) -> Payload:
        """As those who read ahead do."""
        if layer.cache_key not in self._touched:
            self._touch(layer)
        if not self._disk.missing(layer, extent.chunks()):
            return await self._reader.read(layer, extent, follows=follows)
        with self._foreground.waiting():
            return await self._reader.read(layer, extent, follows=follows)

    def _touch(self, layer: IndexedLayer) -> None:
        self._touched.add(layer.cache_key)
        if self._settings.which == "touched":
            self._wanted[layer.cache_key] = layer
            self._more.set()

    async def run(self) -> None:
        """Fill what is wanted, for ever."""
        while True:
            layer = await self._next()
            try:
                await self._complete(layer)
            except (errors.ClipError, ContentCacheDown) as error:
                self._fails(layer, error)
            except OSError as error:
                self._fails(layer, errors.node_fault(error))
            except Exception:  # no read fails for it
                log.exception("background fill failed, this is a bug", cache_key=layer.cache_key)
                self._done(layer)
            else:
                self._done(layer)

    async def _next(self) -> IndexedLayer:
        """A touched one before the others; one that failed when its wait is over."""
        while True:
            fresh = [key for key in self._wanted if key not in self._failed]
            if fresh:
                touched = (key for key in fresh if key in self._touched)
                return self._wanted[next(touched, fresh[0])]
            if trio.current_time() >= self._retry_at:
                return self._wanted[next(iter(self._failed))]
            self._told.fill_is(next(iter(self._failed.values()), "idle"))
            self._more = trio.Event()
            with trio.move_on_at(self._retry_at):
                await self._more.wait()

    async def _complete(self, layer: IndexedLayer) -> None:
        """Return when the layer is whole, by whomever."""
        while not self._disk.has_payload(layer):
            with alone(self._disk.layout.fill_lock("background")) as ours:
                if ours and not self._is_passed_over(layer) and not self._disk.has_payload(layer):
                    await self._fill(layer)
                    return
            self._told.fill_is("waiting")
            await trio.sleep(WATCH_S)

    async def _fill(self, layer: IndexedLayer) -> None:
        self._told.fill_is("filling")
        self._room.look_again()
        await self._layer_fill.complete(layer)
        self._told.fill_completed()
        log.info(
            "Layer filled in the background",
            layer=layer.layer.digest,
            cache_key=layer.cache_key,
            decompressed_bytes=layer.index.payload_bytes,
        )

    def _is_passed_over(self, layer: IndexedLayer) -> bool:
        """Whether a pass brings the layer just now, in this process or another."""
        with fill_lock(self._disk.layout, layer.cache_key) as free:
            return not free

    def _fails(self, layer: IndexedLayer, error: Exception) -> None:
        """Wait, longer each time; a layer that will never come is wanted no more."""
        key = layer.cache_key
        if not _may_pass(error):
            log.warning("background fill leaves a layer out", cache_key=key, error=str(error))
            self._done(layer)
            return
        if not self._failed:
            log.warning("background fill waits", cache_key=key, error=str(error))
        if not self._failed or key in self._failed:
            settings = self._settings
            self._retry_s = min(settings.most_retry_s, self._retry_s * 2 or settings.first_retry_s)
            self._retry_at = trio.current_time() + self._retry_s
        self._failed.pop(key, None)  # the others' turn
        self._failed[key] = "no_room" if isinstance(error, errors.DiskFull) else "waiting"

    def _done(self, layer: IndexedLayer) -> None:
        """Want it no more; what failed beside it is tried at once, if it has come."""
        del self._wanted[layer.cache_key]
        if self._failed.pop(layer.cache_key, None) is None:
            return
        self._retry_s, self._retry_at = 0, trio.current_time()
        if not self._failed:
            log.info("background fill goes on")
            self._retry_at = math.inf


def _may_pass(error: Exception) -> bool:
    if isinstance(error, errors.ClipError):
        return error.transient or isinstance(error, errors.NodeFault)
    return True
