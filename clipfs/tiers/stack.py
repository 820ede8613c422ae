"""Sets the tiers of one image up, in their order, and takes them down again.

`open_tiers` is the one place that knows which tiers there are; everything above reads through
`Tiers.chain`. A layer that the registry delivered is handed to the `Storer`, which stores it
in the content cache behind the readers' backs.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from clipfs.image.model import Layer
from clipfs.image.reference import Reference
from clipfs.image.registry import Registry
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import PassProgress
from clipfs.layer.layout import Layout
from clipfs.system.processes import boot_id
from clipfs.tiers.chain import TierChain
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.opening import open_content_store
from clipfs.tiers.content.store import ContentStore
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.held_claims import Claimant
from clipfs.tiers.pass_over_hosts import Passes
from clipfs.tiers.proofs import Proofs
from clipfs.tiers.read_ahead import ReadAhead
from clipfs.tiers.registry import RegistryHooks, RegistryTier
from clipfs.tiers.settings import TierHooks, TierSettings
from clipfs.tiers.sharing import Sharing
from clipfs.tiers.storer import Storer
from clipfs.tiers.tier import IndexedLayer, Tier

MEND_GRACE_S = 0.15
"""For an index that is to be signed anew: what a mount may lose to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """The tiers of one image, open. `content_cache`, the `store` that it reads, the `storer` and
    the `mender` are None where tier 2 is off."""

    chain: TierChain
    ahead: ReadAhead
    disk: DiskTier
    content_cache: ContentCacheTier | None
    registry: RegistryTier
    proofs: Proofs
    store: ContentStore | None
    storer: Storer | None
    mender: Mender | None

    async def complete(
        self, layer: IndexedLayer, on_brought: Callable[[int], None] = lambda _: None
    ) -> None:
        """Return when the whole payload is in `cache/`, and what was begun for it is done.

        on_brought  as of `TierChain.complete`
        """
        await self.chain.complete(layer, on_brought)
        await self.registry.settled(layer)

    async def load_index(self, layer: Layer) -> LayerIndex:
        """The layer's index, for this image: its host has delivered the blob, now or before."""
        return await self.proofs.shown(layer, self.chain.load_index)


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
            DiskTier.open(settings.layout, settings.keys, on_read=partial(hooks.on_read, "disk"))
        )
        cache = await stack.enter_async_context(
            open_content_store(
                settings.content_cache_urls,
                token=settings.content_cache_token,
                ca_pem=settings.ca_pem,
                will_fork=hooks.on_filled is not None,  # who is left behind stores its layers
                check=not (mounted or to_store),  # who is left behind has been preceded by a check
                on_failure=lambda: hooks.on_trouble("errors"),
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        far: list[Tier] = []
        mender: Mender | None = None
        content_cache: ContentCacheTier | None = None
        sharing: Sharing | None = None
        storer: Storer | None = None
        if cache is not None:
            mender = Mender(cache, nursery)
            stack.push_async_callback(_mended, mender)
            content_cache = ContentCacheTier(
                cache,
                settings.keys,
                mender=mender,
                waits=mounted,
                on_received=partial(hooks.on_read, "content_cache"),
                on_unverified=lambda: hooks.on_trouble("verify_failures"),
                on_read=lambda layer: sharing.arrived(layer) if sharing else None,
            )
            far.append(content_cache)
            sharing = Sharing(
                cache,
                Claimant(
                    node=node_name(settings.layout),
                    process=settings.holder,
                    registry=reference.registry,
                ),
                nursery,
                look=content_cache.look_for_index,
                has=content_cache.has,
                on_progress=hooks.on_progress,
            )
            stack.push_async_exit(_claims_given_back(sharing, hooks))
            storer = Storer(cache, settings.layout, settings.keys, nursery, held=sharing.held)
        passes = Passes(
            registry=registry,
            reference=reference,
            origins=disk.origins,
            workers=trio.CapacityLimiter(settings.workers),
            ranges=settings.ranges,
            on_progress=_progressed(hooks, sharing),
        )
        registry_tier = RegistryTier(
            passes,
            disk,
            nursery,
            hooks=RegistryHooks(
                on_read=partial(hooks.on_read, "registry", 0),
                on_download=hooks.on_download,
                on_indexed=hooks.on_indexed,
                on_filled=_filled(hooks, storer),
            ),
            sharing=sharing,
        )
        far.append(registry_tier)
        if storer is not None:
            for layer in to_store:
                storer.store_soon(layer)
        chain = TierChain(disk, far)
        yield Tiers(
            chain=chain,
            ahead=ReadAhead(chain, nursery),
            disk=disk,
            content_cache=content_cache,
            registry=registry_tier,
            proofs=Proofs(passes, disk, content_cache, on_download=hooks.on_download),
            store=cache,
            storer=storer,
            mender=mender,
        )


def node_name(layout: Layout) -> str:
    """In claims: the same for all processes of a root, until the node is booted again."""
    root = layout.root.stat()
    named = f"{boot_id()} {root.st_dev} {root.st_ino}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def _claims_given_back(
    sharing: Sharing, hooks: TierHooks
) -> Callable[[type[BaseException] | None, BaseException | None, object], Awaitable[None]]:
    """For the block's end: but for those of layers that who is left behind is to store."""

    async def on_exit(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or hooks.on_filled is None:
            await sharing.held.release_all()

    return on_exit


def _progressed(hooks: TierHooks, sharing: Sharing | None) -> Callable[[Layer, PassProgress], None]:
    """Who hears of a pass's progress: on this node, and those who wait on others."""

    def on_progress(layer: Layer, progress: PassProgress) -> None:
        hooks.on_progress(layer, progress)
        if sharing is not None:
            sharing.held.progressed(layer, progress)

    return on_progress


def _filled(hooks: TierHooks, storer: Storer | None) -> Callable[[IndexedLayer], None]:
    """What becomes of a layer that the registry delivered."""

    def on_filled(layer: IndexedLayer) -> None:
        if hooks.on_filled is None:
            if storer is not None:
                storer.store_soon(layer)
            return
        if storer is not None:
            storer.publish_soon(layer)
        hooks.on_filled(layer)

    return on_filled


async def _mended(mender: Mender) -> None:
    with trio.move_on_after(MEND_GRACE_S):
        await mender.drain()
