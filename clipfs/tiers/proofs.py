"""Cached is not owned: a layer is used for an image only if that image's host has delivered it.

    index = await proofs.shown(layer, chain.load_index)

Knowing a digest is not owning it: anyone's registry can serve a manifest that names a neighbour's
layer. An origin record says that the host has delivered the blob, now or before; it is asked for
beside the layer's index, on the disk and then in the content cache. A layer that no tier has is
passed over, which is the proof. Of one that is cached without a record for this host, the blob is
downloaded once more, once on this node however many mounts wait for it; then there is one.

Not here: what a record says (`clipfs.layer.origin`); the download (`clipfs.tiers.pass_over_hosts`).
"""

from collections.abc import Awaitable, Callable

import trio

from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.origin import record_name
from clipfs.system.groups import lone_error_unwrapped
from clipfs.system.locks import alone
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.pass_over_hosts import Passes

WATCH_INTERVAL_S = 0.05
"""How often another process's proof is looked for."""


class Proofs:
    """Of layers of the image that `passes` are for."""

    def __init__(
        self,
        passes: Passes,
        disk: DiskTier,
        content_cache: ContentCacheTier | None,
        *,
        on_download: Callable[[int], None],
    ) -> None:
        self._passes = passes
        self._disk = disk
        self._content_cache = content_cache
        self._on_download = on_download
        self._host = passes.reference.registry

    async def has(self, layer: Layer, host: str) -> bool:
        """Whether a record says that the blob was delivered for a reference that names host.

        It is kept on disk from now on; False: not known.
        """
        if self._disk.origins.has(layer, host):
            return True
        if self._content_cache is None or not await self._content_cache.has_origin(layer, host):
            return False
        self._disk.origins.add(layer, host, durable=False)
        return True

    async def shown(
        self, layer: Layer, load: Callable[[Layer], Awaitable[LayerIndex]]
    ) -> LayerIndex:
        """What load gives of the layer, once the host has shown that it has the blob.

        Raises  as load; as `Passes.prove`
        """
        if self._disk.origins.has(layer, self._host):
            return await load(layer)
        with lone_error_unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.has, layer, self._host)
                index = await load(layer)
        if not await self.has(layer, self._host):  # a pass may have left one, another node's too
            await self._prove(layer)
        return index

    async def _prove(self, layer: Layer) -> None:
        """Once on this node for each host: the others wait for the record."""
        lock = self._disk.layout.proof_lock(record_name(layer.cache_key, self._host))
        while not self._disk.origins.has(layer, self._host):
            with alone(lock) as mine:
                if mine and not self._disk.origins.has(layer, self._host):
                    return await self._download(layer)  # the disk may refuse the record
            await trio.sleep(WATCH_INTERVAL_S)

    async def _download(self, layer: Layer) -> None:
        async with self._passes.workers:
            await self._passes.prove(layer, on_download=self._on_download)
        if self._content_cache is not None:
            self._content_cache.share_origin(layer, self._host)
