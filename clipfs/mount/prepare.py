"""From a name to an image that can be mounted: resolve, index its layers, merge them.

    async with prepared(settings, reference, platform, on_progress=...) as (image, tiers):

Used by mount, index and ls alike. Layers are indexed side by side; a layer that a tier knows
already costs one small read, if its origin is known (`clipfs.tiers.proofs`). Nothing is mounted
here.
"""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from clipfs import errors
from clipfs.image.digest import cache_key
from clipfs.image.model import Image, Layer
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import WORKER as PASS_WORKER
from clipfs.layer.job import PassProgress
from clipfs.layer.layout import Layout
from clipfs.layer.limits import MAX_SHARED_IMAGE_INDEX_BYTES
from clipfs.layer.use import InUse, touch
from clipfs.mount import counters
from clipfs.mount.front import Wanted
from clipfs.mount.image_index import bring
from clipfs.system.fork_server import fork_server
from clipfs.system.groups import lone_error_unwrapped
from clipfs.tiers.settings import TierHooks, TierSettings
from clipfs.tiers.stack import Tiers, open_tiers
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.job import WORKER as MERGE_WORKER
from clipfs.tree.packed import pack
from clipfs.tree.sparse import SparseLayout, layout_of

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An indexed image: `layers` in the image's order, `index_path` its image index.

    sparse     the layers that have sparse files, as the image index numbers their devices
    is_merged  the image index was made just now: the content cache may lack it
    """

    image: Image
    layers: tuple[IndexedLayer, ...]
    sparse: tuple[tuple[IndexedLayer, SparseLayout], ...]
    index_path: Path
    is_merged: bool
    resolve_s: float
    index_s: float


def workers_at_hand(root: Path, reference: Reference) -> AbstractContextManager[None]:
    """Have the workers start fast that `prepared` needs for an image that may not be indexed.

    To be entered before there are threads, credentials and locks.
    """
    digest = reference.digest
    if digest and os.path.exists(Layout(root).image_index(cache_key(digest))):
        return nullcontext()
    return fork_server((PASS_WORKER, MERGE_WORKER))


@asynccontextmanager
async def prepared(
    settings: TierSettings,
    reference: Reference,
    platform: Platform,
    *,
    on_progress: Callable[[Layer, PassProgress], None],
    on_filled: Callable[[IndexedLayer], None] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    on_merge: Callable[[], None] = lambda: None,
    wanted: Wanted = "fuse",
    in_use: InUse | None = None,
    resolved: Image | None = None,
) -> AsyncIterator[tuple[Prepared, Tiers]]:
    """The image that reference names now, indexed; its tiers stay open for the block.

    on_filled  gets the layers that the content cache lacks; None: they are stored at once
    meanwhile  called where there is no image index yet, while others are waited for
    on_merge   called when only a merge is waited for
    wanted     the front that will show it; another node's image index does for `fuse` alone
    in_use     what holds the image's layers against eviction; None: this block does
    resolved   what reference names; None: the registry is asked
    Raises     any ClipError that says why there is no such image here
    """
    with (
        lone_error_unwrapped(),
        counters.open_own(settings.layout) as own,
        ExitStack() as stack,
    ):
        held = in_use or stack.enter_context(InUse(settings.layout))
        hooks = TierHooks(
            on_read=own.count_read,
            on_download=own.count_download,
            on_indexed=own.count_indexed,
            on_trouble=own.count_trouble,
            on_progress=on_progress,
            on_filled=on_filled,
        )
        async with settings.open_registry() as registry:
            begin = time.perf_counter()
            image = resolved or await registry.resolve(reference, platform)
            asked = time.perf_counter()
            image_key = cache_key(image.digest)
            keys = [layer.cache_key for layer in image.layers]
            await trio.to_thread.run_sync(held.hold, [*keys, image_key])
            async with open_tiers(settings, registry, image.reference, hooks=hooks) as tiers:
                index_path = settings.layout.image_index(image_key)
                layers, is_merged = await bring(
                    image,
                    tiers,
                    index_path,
                    own=_may_be_the_kernels(wanted, settings.layout, image),
                    indexed=partial(_indexed, image, tiers),
                    meanwhile=meanwhile,
                    on_merge=on_merge,
                )
                touch(settings.layout, layers=keys, image=image_key)
                ready = Prepared(
                    image=image,
                    layers=layers,
                    sparse=(
                        await trio.to_thread.run_sync(sparse_layouts, layers)
                        if any(one.index.sparse for one in layers)
                        else ()
                    ),
                    index_path=index_path,
                    is_merged=is_merged,
                    resolve_s=asked - begin,
                    index_s=time.perf_counter() - asked,
                )
                yield ready, tiers


def _may_be_the_kernels(wanted: Wanted, layout: Layout, image: Image) -> bool:
    """Whether the kernel may be shown the image: all of its layers are here, or will be."""
    if wanted == "auto":
        return all(layout.payload(layer.cache_key).exists() for layer in image.layers)
    return wanted == "erofs"


async def _indexed(
    image: Image, tiers: Tiers, on_indexed: Callable[[Layer, LayerIndex], None]
) -> tuple[IndexedLayer, ...]:
    """The image's layers with their indexes, each from the nearest tier that has it."""

    async def load(layer: Layer) -> LayerIndex:
        with _named(image.reference):
            index = await tiers.load_index(layer)
        on_indexed(layer, index)
        return index

    distinct = list({layer.cache_key: layer for layer in image.layers}.values())
    indexes = await side_by_side(load, distinct)
    by_key = {layer.cache_key: index for layer, index in zip(distinct, indexes, strict=True)}
    return tuple(IndexedLayer(layer=one, index=by_key[one.cache_key]) for one in image.layers)


async def side_by_side(function: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """function of every item, concurrently; the first ClipError cancels the others."""
    results: dict[int, R] = {}

    async def run(position: int, item: T) -> None:
        results[position] = await function(item)

    with lone_error_unwrapped():
        async with trio.open_nursery() as nursery:
            for position, item in enumerate(items):
                nursery.start_soon(run, position, item)
    return [results[position] for position in range(len(items))]


@contextmanager
def _named(reference: Reference) -> Iterator[None]:
    """Have errors name the image."""
    try:
        yield
    except errors.ClipError as error:
        if str(reference) in str(error):
            raise
        raise type(error)(f"{reference}: {error}") from error


def share_image_index(prepared: Prepared, tiers: Tiers) -> None:
    """Have the content cache store it, behind everybody's back, so that no other node merges."""
    if tiers.content_cache is not None:
        packed = partial(pack, prepared.index_path, limit_bytes=MAX_SHARED_IMAGE_INDEX_BYTES)
        tiers.content_cache.share_image_index(prepared.image.digest, packed)


def sparse_layouts(layers: Sequence[IndexedLayer]) -> tuple[tuple[IndexedLayer, SparseLayout], ...]:
    """The layers that have sparse files, in their order."""
    found = [(layer, layout_of(layer.index.sparse)) for layer in layers]
    return tuple((layer, layout) for layer, layout in found if layout is not None)
