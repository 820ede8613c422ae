"""Of the nodes that need the same layer now, one brings it: whoever claims it in the content cache.

    OURS     the claim is ours until `held.release`: bring the layer, unless a second look finds
             it; who had the claim may have stored it since it was missed
    NOBODYS  nobody keeps claims now, or all holders stand still: bring it, as without tier 2
    OTHERS   another node brings it: wait for its index, or for its pages

A store that cannot say is no obstacle, and no warning of this module's: whoever finds it down
warns of that, and the storer of a token that may only read.

Whoever brings a layer holds its claim until its pages are stored, so that those who have its
index wait for them. A claim that is not renewed lapses; then one of those who wait gets it. If its
holder lives and stands still, one of them claims the layer's second key, and the others wait on.
Who brings the layer from another registry is not waited for: he may be slow, and is no proof that
this image's registry has the layer. The second key, which is the registry's, is claimed at once.

Not here: claims that are held (`clipfs.tiers.held_claims`); the pass (`clipfs.tiers.registry`).
"""

import enum
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import PassProgress
from clipfs.log import log
from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    ContentStore,
    MayNotStore,
    Progress,
)
from clipfs.tiers.held_claims import Claimant, HeldClaims
from clipfs.tiers.tier import AskAgain, Extent, IndexedLayer

STALLED_S = 60
"""A holder whose progress stands still for so long is waited for no more, as a registry is."""

AWAY_S = 5
"""A store that restarts may take so long to say whose the claim is that others wait for."""

ASK_S = 1
"""Between two questions for a claim that another node holds, at least."""

LEAST_PAUSE_S, MOST_PAUSE_S = 0.1, 3
"""Between two looks: a tenth of what has been waited, so that waiting costs a tenth more."""

FORGOTTEN_S = 10
"""Who has not asked for so long does not wait any more."""


class Turn(enum.Enum):
    OURS = enum.auto()
    NOBODYS = enum.auto()
    OTHERS = enum.auto()


@dataclass(slots=True)
class _Waiting:
    """For a holder.

    key      what he claims
    changed  when his progress was last another one, or he was
    asked    when the claim was last asked for
    away     since when nobody says whose it is
    """

    key: str
    since: float
    changed: float
    asked: float
    claim: Claim
    away: float | None = None


class Sharing:
    """This process's share; `held` are its own claims."""

    def __init__(
        self,
        cache: ContentStore,
        claimant: Claimant,
        nursery: trio.Nursery,
        *,
        look: Callable[[Layer, bool], Awaitable[LayerIndex | None]],
        has: Callable[[IndexedLayer, Extent], Awaitable[bool]],
        on_progress: Callable[[Layer, PassProgress], None] = lambda *_: None,
    ) -> None:
        """look, has    ask the content cache for an index, patiently or not, and for bytes
        on_progress  is told how far another node is
        """
        self.held = HeldClaims(cache, claimant, nursery)
        self._cache = cache
        self._claimant = claimant
        self._look = look
        self._has = has
        self._on_progress = on_progress
        self._waiting: dict[str, _Waiting] = {}

    async def index_of(
        self,
        layer: Layer,
        first_pass: Callable[[Layer], Awaitable[LayerIndex]],
        *,
        passes: trio.CapacityLimiter,
    ) -> tuple[LayerIndex, bool]:
        """The layer's index, and whether it is another node's: else first_pass's, one of passes."""
        while True:
            async with passes:
                turn = await self.turn(layer)
                found = await self._look(layer, False) if turn is Turn.OURS else None
                if found is not None:
                    await self.held.release([layer.cache_key])
                    return found, True
                if turn is not Turn.OTHERS:
                    return await first_pass(layer), False
            found = await self._wait(layer)
            while found is None and not passes.available_tokens:
                found = await self._wait(layer)
            if found is not None:
                return found, True

    async def check_turn(self, layer: IndexedLayer, wanted: Extent | None) -> None:
        """Return if it is this node's turn to download the layer.

        wanted  bytes that were missed; None: all of it, from the registry
        Raises  AskAgain if another node brings it, or has just done so
        """
        turn = await self.turn(layer.layer)
        if turn is Turn.NOBODYS and wanted is not None:
            if await self.has_after_all(layer, wanted):
                raise AskAgain
            turn = await self.turn(layer.layer)  # the content cache may be back, with less in it
        if turn is Turn.OTHERS:
            raise AskAgain
        if turn is Turn.OURS and wanted is not None and await self._has(layer, wanted):
            raise AskAgain

    async def has_after_all(self, layer: IndexedLayer, wanted: Extent) -> bool:
        """Whether the content cache has bytes that it missed, or could not be asked for."""
        return await self._has(layer, wanted)

    def arrived(self, layer: Layer) -> None:
        """Say that bytes of the layer have come from the content cache: pages are on the way."""
        waiting = self._waiting.get(layer.cache_key)
        if waiting is not None:
            waiting.since = trio.current_time()

    async def turn(self, layer: Layer) -> Turn:
        """Whose turn it is to bring the layer; never fails.

        Who asks is the node's one filler of the layer: a claim of its node's is a dead process's,
        or that of one which has no more to fill. It goes on with that.
        """
        if layer.cache_key in self.held:
            return Turn.OURS
        for key in self._keys_to_ask(layer):
            try:
                claim = await self._claimed(layer, key)
            except ContentCacheDown as down:
                if self._may_come_back(layer.cache_key, down):
                    return Turn.OTHERS
                log.debug("layer is not claimed", cache_key=key, error=str(down))
                return Turn.NOBODYS
            if self._claimant.is_nodes(claim.holder):
                if key == layer.cache_key:
                    self._waiting.pop(key, None)
                self.held.keep(layer, key, claim)
                return Turn.OURS
            is_elsewhere = self._claimant.is_elsewhere(claim.holder)
            if not is_elsewhere and not self._stands_still(layer, key, claim):
                return Turn.OTHERS
        return Turn.NOBODYS

    def _keys_to_ask(self, layer: Layer) -> tuple[str, ...]:
        """From that of the holder who is waited for."""
        keys, waiting = self._claimant.keys(layer), self._waiting.get(layer.cache_key)
        if waiting is None or trio.current_time() - waiting.asked > FORGOTTEN_S:
            return keys
        return keys[keys.index(waiting.key) :]

    async def _claimed(self, layer: Layer, key: str) -> Claim:
        """Whose the claim on key is now: this node's if it is nobody else's."""
        progress = Progress(total_bytes=layer.size)
        claim = await self._cache.claim(key, self._claimant.holder, progress)
        if self._claimant.is_nodes(claim.holder) and claim.holder != self._claimant.holder:
            claim = await self._cache.claim(key, claim.holder, progress)
        return claim

    async def pause(self, layer: Layer) -> None:
        """Between two looks for what another node stores."""
        pause_s = max(LEAST_PAUSE_S, self._tenth_of_wait_s(layer))
        await trio.sleep(pause_s * random.uniform(0.5, 1.5))

    async def _wait(self, layer: Layer) -> LayerIndex | None:
        """The index, as soon as another node has stored it; None: it is time to ask whose turn."""
        ask_s = max(ASK_S, self._tenth_of_wait_s(layer))
        until = trio.current_time() + ask_s * random.uniform(0.75, 1.25)
        while trio.current_time() < until:
            await self.pause(layer)
            index = await self._look(layer, True)
            if index is not None:
                self._waiting.pop(layer.cache_key, None)
                return index
        return None

    def _tenth_of_wait_s(self, layer: Layer) -> float:
        waiting = self._waiting.get(layer.cache_key)
        waited_s = trio.current_time() - waiting.since if waiting else 0
        return min(MOST_PAUSE_S, waited_s / 10)

    def _may_come_back(self, key: str, down: ContentCacheDown) -> bool:
        """Whether a holder is still waited for of whom the store, for now, says nothing."""
        waiting = self._waiting.get(key)
        if waiting is None or isinstance(down, MayNotStore):
            return False
        now = trio.current_time()
        if waiting.away is None:
            waiting.away = now
        return now - waiting.away < AWAY_S

    def _stands_still(self, layer: Layer, key: str, claim: Claim) -> bool:
        """Whether the holder of the claim on key is not worth waiting for; else he is."""
        now = trio.current_time()
        waiting = self._waiting.get(layer.cache_key)
        fields = {"layer": layer.digest, "cache_key": layer.cache_key, "holder": claim.holder}
        if waiting is None or waiting.key != key or now - waiting.asked > FORGOTTEN_S:
            waiting = self._waiting[layer.cache_key] = _Waiting(key, now, now, now, claim)
            log.info("another node brings the layer, waiting for it", **fields)
        before, waiting.away, waiting.asked = waiting.claim, None, now
        if (claim.holder, claim.progress) != (before.holder, before.progress):
            waiting.claim, waiting.changed = claim, now
        if now - waiting.changed >= STALLED_S:
            log.warning("another node claims the layer and stands still, it is not waited for",
                        **fields)  # fmt: skip
            return True
        said = claim.progress
        self._on_progress(
            layer,
            PassProgress(
                downloaded_bytes=said.downloaded_bytes,
                payload_bytes=said.payload_bytes,
                is_anothers=True,
            ),
        )
        return False
