"""The claims that this process holds: renewed while it lives, told how far it is, given back.

    held.keep(layer, key, claim)  it has been granted: renew it until `release`
    held.hold(layer)              ask for it, and renew it
    held.progressed(...)          those who wait hear of it with the next renewal

A layer is claimed under its cache key; by whom that claim does not help, since its holder brings
the layer from another registry, or lives and stands still, under the name of its origin record.

Not here: who may claim, and who waits (`clipfs.tiers.sharing`).
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from clipfs.image.model import Layer
from clipfs.layer.job import PassProgress
from clipfs.layer.origin import record_name
from clipfs.tiers.content.store import Claim, ContentCacheDown, ContentStore, Progress

RENEW_S = 3
"""A claim lapses after 15 s: four renewals may be lost."""

RELEASE_S = 1
"""A claim that cannot be given back in this time lapses."""

_MARK_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims, for images of registry.

    node     its name
    process  what no two processes of the node that live share
    """

    node: str
    process: str
    registry: str

    @property
    def holder(self) -> str:
        """As claims say it: whoever has a token may read them, so they name no registry."""
        mark = hashlib.sha256(self.registry.encode()).hexdigest()[:_MARK_CHARACTERS]
        return f"{self.node}.{self.process}.{mark}"

    def keys(self, layer: Layer) -> tuple[str, str]:
        """The first is asked for first."""
        return layer.cache_key, record_name(layer.cache_key, self.registry)

    def is_nodes(self, holder: str) -> bool:
        """Whether holder is a process of this node that brings layers from this registry."""
        return holder.partition(".")[0] == self.node and not self.is_elsewhere(holder)

    def is_elsewhere(self, holder: str) -> bool:
        """Whether holder brings layers from another registry."""
        mark = holder.split(".")[2:]
        return bool(mark) and mark != self.holder.split(".")[2:]


@dataclass(slots=True)
class _Held:
    """A claim on `key`, and what its next renewal says of its holder's progress."""

    key: str
    holder: str
    progress: Progress
    renewing: trio.Lock = field(default_factory=trio.Lock)


class HeldClaims:
    """Claims by cache key, renewed by tasks in `nursery`."""

    def __init__(self, cache: ContentStore, claimant: Claimant, nursery: trio.Nursery) -> None:
        self._cache = cache
        self._claimant = claimant
        self._nursery = nursery
        self._held: dict[str, _Held] = {}
        self._stored_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def keep(self, layer: Layer, key: str, claim: Claim) -> None:
        """Renew a claim of the layer that has just been granted, to whichever holder."""
        self._keep(layer, _Held(key, claim.holder, claim.progress), at_once=False)

    def hold(self, layer: Layer) -> None:
        """Claim a layer that is whole on this node, until it is stored."""
        if layer.cache_key not in self._held:
            whole = Progress(downloaded_bytes=layer.size, total_bytes=layer.size)
            self._keep(layer, _Held(layer.cache_key, self._claimant.holder, whole), at_once=True)

    def progressed(self, layer: Layer, progress: PassProgress) -> None:
        """Say how far the layer's pass is."""
        held = self._held.get(layer.cache_key)
        if held is not None:
            held.progress = Progress(
                downloaded_bytes=progress.downloaded_bytes,
                payload_bytes=progress.payload_bytes,
                total_bytes=layer.size,
            )

    def stored(self, count: int) -> None:
        """Say that so many bytes of pages are stored, of whichever layer."""
        self._stored_bytes += count

    async def release(self, keys: Iterable[str]) -> None:
        """Give claims back, also when cancelled; nothing happens to what is not held."""
        with trio.move_on_after(RELEASE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    held = self._held.pop(key, None)
                    if held is not None:
                        nursery.start_soon(self._release, held)

    async def release_all(self) -> None:
        await self.release(list(self._held))

    async def _release(self, held: _Held) -> None:
        async with held.renewing:
            with suppress(ContentCacheDown):
                await self._cache.release(held.key, held.holder)

    def _keep(self, layer: Layer, held: _Held, *, at_once: bool) -> None:
        self._held[layer.cache_key] = held
        self._nursery.start_soon(self._renew, layer, held, at_once)

    async def _renew(self, layer: Layer, held: _Held, at_once: bool) -> None:
        """As long as it is held; in the place of another's, under a name of our own."""
        if not at_once:
            await trio.sleep(RENEW_S)
        while self._held.get(layer.cache_key) is held:
            async with held.renewing:
                if self._held.get(layer.cache_key) is held:
                    progress = replace(held.progress, stored_bytes=self._stored_bytes)
                    with suppress(ContentCacheDown):
                        claim = await self._cache.claim(held.key, held.holder, progress)
                        if self._claimant.is_nodes(claim.holder):
                            held.holder = claim.holder  # of a process that has ended
                        else:
                            held.key = self._claimant.keys(layer)[1]
            await trio.sleep(RENEW_S)
