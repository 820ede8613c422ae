"""Sets the tiers of one image up, in their order, and takes them down again.

`open_tiers` is the one place that knows which tiers there are; everything above reads through
`Tiers.chain`. A layer that the registry delivered is handed to the `Storer`, which stores it
in the content cache behind the readers' backs.
"""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from clipfs.image.credentials import RegistryConfig
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.model import Layer
from clipfs.image.reference import Reference
from clipfs.image.registry import Registry
from clipfs.image.retry import RETRY, RetryPolicy
from clipfs.layer.job import RANGES, PassProgress, Ranges
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.tiers.chain import TierChain
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.objectstore import open_object_store
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentStore
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.read_ahead import ReadAhead
from clipfs.tiers.registry import RegistryHooks, RegistryTier
from clipfs.tiers.storer import Storer
from clipfs.tiers.tier import IndexedLayer, Tier, TierName

MEND_GRACE_S = 0.15
"""For an index that is to be signed anew: what a mount may lose to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """What an administrator decides; values, already read from their files.

    ca_pem              CAs that servers are trusted by, beside the node's own
    content_cache_urls  of one content cache's replicas; none: tier 2 is off
    retry               how often, and how soon, a registry that fails is asked again
    workers             passes side by side, one process each; one more than cores, as a pass
                        waits now and then, for the registry or the disk
    ranges              how a large blob is read by a pass that runs alone
    """

    layout: Layout
    keys: KeyRing
    registry_config: RegistryConfig
    plain_http: frozenset[str] = frozenset()
    ca_pem: str = field(default="", repr=False)
    mirrors: Mirrors = NO_MIRRORS
    content_cache_urls: tuple[str, ...] = ()
    content_cache_token: str | None = field(default=None, repr=False)
    retry: RetryPolicy = RETRY
    ranges: Ranges = RANGES
    workers: int = field(default_factory=lambda: 1 + (os.cpu_count() or 1))

    def open_registry(self) -> AbstractAsyncContextManager[Registry]:
        return Registry.open(
            config=self.registry_config,
            plain_http=self.plain_http,
            ca_pem=self.ca_pem,
            mirrors=self.mirrors,
            retry=self.retry,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TierHooks:
    """Who wants to know: of reads and downloads, of the progress of a layer's pass.

    on_read      a tier has answered a read, with so many bytes (the registry's: on_download)
    on_wrong     the content cache has sent a wrong chunk
    on_error     it has sent an index that does not verify, or no answer that can be used
    on_download  so many bytes of a blob have come
    on_filled    gets the layers that the content cache lacks, in the Storer's stead
    """

    on_read: Callable[[TierName, int], None] = lambda *_: None
    on_wrong: Callable[[], None] = lambda: None
    on_error: Callable[[], None] = lambda: None
    on_download: Callable[[int], None] = lambda _: None
    on_progress: Callable[[Layer, PassProgress], None] = lambda *_: None
    on_filled: Callable[[IndexedLayer], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """The tiers of one image, open. `storer` and `mender` are None where tier 2 is off."""

    chain: TierChain
    ahead: ReadAhead
    disk: DiskTier
    registry: RegistryTier
    storer: Storer | None
    mender: Mender | None

    async def complete(self, layer: IndexedLayer) -> None:
        """Return when the whole payload is in `cache/`, and what was begun for it is done."""
        await self.chain.complete(layer)
        await self.registry.settled(layer)


@asynccontextmanager
async def open_tiers(
    settings: TierSettings,
    registry: Registry,
    reference: Reference,
    *,
    hooks: TierHooks,
    to_store: Sequence[IndexedLayer] = (),
    mounted: bool = False,
) -> AsyncIterator[Tiers]:
    """The tiers of the image that reference names; their tasks end with the block.

    to_store  layers on disk that the content cache should get, from an earlier block
    mounted   the tree is readable: a read may wait for a content cache that restarts
    """
    async with AsyncExitStack() as stack:
        disk = await stack.enter_async_context(
            DiskTier.open(
                settings.layout, settings.keys, on_read=lambda n: hooks.on_read("disk", n)
            )
        )
        cache = await _open_content_cache(
            settings,
            stack,
            will_fork=hooks.on_filled is not None,  # its layers are stored by who is left behind
            check=not (mounted or to_store),  # who is left behind has been preceded by a check
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        storer = Storer(cache, settings.layout, settings.keys, nursery) if cache else None
        stack.callback(nursery.cancel_scope.cancel)
        on_filled = hooks.on_filled or (storer.store_soon if storer else None)
        registry_tier = RegistryTier(
            registry,
            reference,
            disk,
            nursery,
            workers=settings.workers,
            ranges=settings.ranges,
            hooks=RegistryHooks(
                on_read=lambda: hooks.on_read("registry", 0),
                on_download=hooks.on_download,
                on_progress=hooks.on_progress,
                on_filled=on_filled or (lambda _: None),
            ),
        )
        far: list[Tier] = [registry_tier]
        mender = Mender(cache, nursery) if cache else None
        if cache is not None and mender is not None:
            stack.push_async_callback(_mended, mender)
            far.insert(
                0,
                ContentCacheTier(
                    cache,
                    settings.keys,
                    mender=mender,
                    waits=mounted,
                    on_received=lambda n: hooks.on_read("content_cache", n),
                    on_wrong=hooks.on_wrong,
                    on_error=hooks.on_error,
                ),
            )
        if storer is not None:
            for layer in to_store:
                storer.store_soon(layer)
        chain = TierChain(disk, far)
        yield Tiers(
            chain=chain,
            ahead=ReadAhead(chain, nursery),
            disk=disk,
            registry=registry_tier,
            storer=storer,
            mender=mender,
        )


async def _mended(mender: Mender) -> None:
    with trio.move_on_after(MEND_GRACE_S):
        await mender.drain()


async def _open_content_cache(
    settings: TierSettings, stack: AsyncExitStack, *, will_fork: bool, check: bool
) -> ContentStore | None:
    urls = settings.content_cache_urls
    if not urls:
        return None
    if urls[0].startswith(("s3:", "gs:", "az:")):
        return await stack.enter_async_context(
            open_object_store(urls[0], will_fork=will_fork, check=check, ca_pem=settings.ca_pem)
        )
    return await stack.enter_async_context(
        Replicas.open(urls, token=settings.content_cache_token, ca_pem=settings.ca_pem)
    )
