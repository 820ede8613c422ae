"""Of the nodes that need the same layer now, one brings it: whoever claims it in the content cache.

    turn = await sharing.turn(layer)
    OURS     the claim is ours, renewed until `release`: bring the layer, unless a second look
             finds it; who had the claim may have stored it since it was missed
    NOBODYS  nobody keeps claims now, or its holder stands still: bring it, as without tier 2
    OTHERS   another node brings it: `wait` for the index, or `pause` and look for its pages

A store that cannot say is no obstacle, and no warning of this module's: whoever finds it down
warns of that, and the storer of a token that may only read.

Whoever brings a layer holds its claim until its pages are stored, so that those who have its
index wait for them. A claim that is not renewed lapses; then one of those who wait gets it.

Not here: claims themselves (`clipfs.tiers.content.store`); the pass (`clipfs.tiers.registry`).
"""

import enum
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
import trio
from msgspec.structs import replace

from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import PassProgress
from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    ContentStore,
    MayNotStore,
    Progress,
)
from clipfs.tiers.tier import Extent, IndexedLayer

log = structlog.get_logger()

RENEW_S = 3
"""A claim lapses after 15 s: four renewals may be lost."""

STALLED_S = 60
"""A holder whose progress stands still for so long is waited for no more, as a registry is."""

AWAY_S = 5
"""A store that restarts may take so long to say whose the claim is that others wait for."""

ASK_S = 1
"""Between two questions for a claim that another node holds."""

LEAST_PAUSE_S, MOST_PAUSE_S = 0.1, 1
"""Between two looks: a tenth of what has been waited, so that waiting costs a tenth more."""

RELEASE_S = 1
"""A claim that cannot be given back in this time lapses."""


class Turn(enum.Enum):
    OURS = enum.auto()
    NOBODYS = enum.auto()
    OTHERS = enum.auto()


@dataclass(slots=True)
class _Held:
    progress: Progress
    renewing: trio.Lock = field(default_factory=trio.Lock)


@dataclass(slots=True)
class _Waiting:
    """For a holder.

    changed  when his progress was last another one, or he was
    away     since when nobody says whose the claim is
    """

    since: float
    changed: float
    claim: Claim
    away: float | None = None


class Sharing:
    """This process's claims, renewed by tasks in `nursery`."""

    def __init__(
        self,
        cache: ContentStore,
        holder: str,
        nursery: trio.Nursery,
        *,
        look: Callable[[Layer], Awaitable[LayerIndex | None]],
        has: Callable[[IndexedLayer, Extent], Awaitable[bool]],
        on_progress: Callable[[Layer, PassProgress], None] = lambda *_: None,
    ) -> None:
        """holder   an id that no two processes which live share
        look, has    ask the content cache for the index, patiently, and for bytes
        on_progress  is told how far another node is
        """
        self._cache = cache
        self._holder = holder
        self._nursery = nursery
        self._look = look
        self._has = has
        self._on_progress = on_progress
        self._held: dict[str, _Held] = {}
        self._stored_bytes = 0
        self._waiting: dict[str, _Waiting] = {}

    async def turn(self, layer: Layer) -> Turn:
        """Whose turn it is to bring the layer; never fails."""
        key = layer.cache_key
        if key in self._held:
            return Turn.OURS
        progress = Progress(total_bytes=layer.size)
        try:
            claim = await self._cache.claim(key, self._holder, progress)
        except ContentCacheDown as down:
            if self._may_come_back(key, down):
                return Turn.OTHERS
            log.debug("layer is not claimed", cache_key=key, error=str(down))
            return Turn.NOBODYS
        if claim.holder != self._holder:
            return self._judged(layer, claim)
        self._waiting.pop(key, None)
        self._keep(key, progress)
        return Turn.OURS

    async def look(self, layer: Layer) -> LayerIndex | None:
        """The index, if it is in the content cache by now."""
        return await self._look(layer)

    async def has(self, layer: IndexedLayer, extent: Extent) -> bool:
        """Whether those bytes are in the content cache by now, and right."""
        return await self._has(layer, extent)

    async def wait(self, layer: Layer) -> LayerIndex | None:
        """The index, as soon as another node has stored it; None: it is time to ask whose turn."""
        until = trio.current_time() + ASK_S * random.uniform(0.75, 1.25)
        while trio.current_time() < until:
            await self.pause(layer)
            index = await self._look(layer)
            if index is not None:
                self._waiting.pop(layer.cache_key, None)
                return index
        return None

    async def pause(self, layer: Layer) -> None:
        """Between two looks for what another node stores."""
        now = trio.current_time()
        waiting = self._waiting.get(layer.cache_key)
        waited_s = now - waiting.since if waiting else 0
        pause_s = min(MOST_PAUSE_S, max(LEAST_PAUSE_S, waited_s / 10))
        await trio.sleep(pause_s * random.uniform(0.5, 1.5))

    def hold(self, layer: Layer) -> None:
        """Claim the layer, which is whole on this node, until it is stored."""
        if layer.cache_key not in self._held:
            whole = Progress(downloaded_bytes=layer.size, total_bytes=layer.size)
            self._keep(layer.cache_key, whole, at_once=True)

    def progressed(self, layer: Layer, progress: PassProgress) -> None:
        """Say how far the pass is; those who wait hear of it with the next renewal."""
        held = self._held.get(layer.cache_key)
        if held is not None:
            held.progress = Progress(
                downloaded_bytes=progress.downloaded_bytes,
                payload_bytes=progress.payload_bytes,
                total_bytes=layer.size,
            )

    def stored(self, count: int) -> None:
        """Say that so many bytes of pages are stored: whoever waits for others waits on."""
        self._stored_bytes += count

    async def release(self, keys: Iterable[str]) -> None:
        """Give claims back, also when cancelled; nothing happens to what is not held."""
        with trio.move_on_after(RELEASE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    held = self._held.pop(key, None)
                    if held is not None:
                        nursery.start_soon(self._release, key, held)

    async def close(self) -> None:
        """Give everything back."""
        await self.release(list(self._held))

    async def _release(self, key: str, held: _Held) -> None:
        async with held.renewing:
            with suppress(ContentCacheDown):
                await self._cache.release(key, self._holder)

    def _keep(self, key: str, progress: Progress, *, at_once: bool = False) -> None:
        self._held[key] = held = _Held(progress)
        self._nursery.start_soon(self._renew, key, held, at_once)

    async def _renew(self, key: str, held: _Held, at_once: bool) -> None:
        """As long as it is held; another's, if we were away for too long, is asked for again."""
        if not at_once:
            await trio.sleep(RENEW_S)
        while self._held.get(key) is held:
            async with held.renewing:
                if self._held.get(key) is held:
                    progress = replace(held.progress, stored_bytes=self._stored_bytes)
                    with suppress(ContentCacheDown):
                        await self._cache.claim(key, self._holder, progress)
            await trio.sleep(RENEW_S)

    def _may_come_back(self, key: str, down: ContentCacheDown) -> bool:
        """Whether a holder is still waited for of whom the store, for now, says nothing."""
        waiting = self._waiting.get(key)
        if waiting is None or isinstance(down, MayNotStore):
            return False
        now = trio.current_time()
        if waiting.away is None:
            waiting.away = now
        return now - waiting.away < AWAY_S

    def _judged(self, layer: Layer, claim: Claim) -> Turn:
        """Whether the holder of claim is worth waiting for."""
        now = trio.current_time()
        waiting = self._waiting.get(layer.cache_key)
        if waiting is None:
            waiting = self._waiting[layer.cache_key] = _Waiting(now, now, claim)
            log.info(
                "another node brings the layer, waiting for it",
                layer=layer.digest,
                cache_key=layer.cache_key,
                holder=claim.holder,
            )
        before, waiting.away = waiting.claim, None
        if (claim.holder, claim.progress) != (before.holder, before.progress):
            waiting.claim, waiting.changed = claim, now
        if now - waiting.changed >= STALLED_S:
            log.warning(
                "another node has claimed the layer and stands still, it is brought here",
                layer=layer.digest,
                cache_key=layer.cache_key,
                holder=claim.holder,
            )
            return Turn.NOBODYS
        said = claim.progress
        self._on_progress(
            layer,
            PassProgress(downloaded_bytes=said.downloaded_bytes, payload_bytes=said.payload_bytes),
        )
        return Turn.OTHERS
