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
from clipfs.layer.use import InUse, touch
from clipfs.log import log
from clipfs.mount import counters
from clipfs.system.fork_server import fork_server
from clipfs.system.groups import lone_error_unwrapped
from clipfs.tiers.settings import TierHooks, TierSettings
from clipfs.tiers.stack import Tiers, open_tiers
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.build import Merger, merging
from clipfs.tree.job import WORKER as MERGE_WORKER
from clipfs.tree.reader import ImageIndex
from clipfs.tree.sparse import SparseLayout, layout_of

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An indexed image: `layers` in the image's order, `index_path` its image index.

    sparse  the layers that have sparse files, as the image index numbers their devices
    """

    image: Image
    layers: tuple[IndexedLayer, ...]
    sparse: tuple[tuple[IndexedLayer, SparseLayout], ...]
    index_path: Path
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
    in_use: InUse | None = None,
    resolved: Image | None = None,
) -> AsyncIterator[tuple[Prepared, Tiers]]:
    """The image that reference names now, indexed; its tiers stay open for the block.

    on_filled  gets the layers that the content cache lacks; None: they are stored at once
    meanwhile  called in a thread, where there is a merge, in another process, to be waited for
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
                layers = await _merged(image, tiers, index_path, meanwhile)
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
                    resolve_s=asked - begin,
                    index_s=time.perf_counter() - asked,
                )
                yield ready, tiers


async def _merged(
    image: Image, tiers: Tiers, path: Path, meanwhile: Callable[[], None]
) -> tuple[IndexedLayer, ...]:
    """The image's layers with their indexes; their image index is at path then."""
    layers = await _indexed(image, tiers) if _is_there(path) else ()
    if layers and _is_usable(path, layers):
        return layers
    async with merging(image.layers) as merger:
        for one in layers:
            merger.give(one.layer, one.index)
        if not layers:
            layers = await _indexed(image, tiers, merger.give)
            if _is_usable(path, layers):
                return layers  # another process was quicker
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, meanwhile)
            await _built(merger, image, path)
    return layers


def _is_there(path: Path) -> bool:
    return path.exists()


async def _built(merger: Merger, image: Image, path: Path) -> None:
    try:
        await merger.build(path)
    except errors.CorruptImage as error:
        raise errors.CorruptImage(
            f"{image.reference}: its layers make no tree: {error}; build the image again"
        ) from error


async def _indexed(
    image: Image,
    tiers: Tiers,
    on_indexed: Callable[[Layer, LayerIndex], None] = lambda *_: None,
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


def _is_usable(path: Path, layers: Sequence[IndexedLayer]) -> bool:
    """Whether path holds the index of an image of these layers, as far as can be told."""
    digests = tuple(one.layer.digest for one in layers)
    sparse = tuple(number for number, one in enumerate(layers) if one.index.sparse)
    try:
        with ImageIndex.open(path) as index:
            return (index.layer_digests, index.sparse_layers) == (digests, sparse)
    except FileNotFoundError:
        return False
    except errors.CorruptImage as error:
        log.warning("image index is damaged, it is made again", reason=str(error))
        return False


def sparse_layouts(layers: Sequence[IndexedLayer]) -> tuple[tuple[IndexedLayer, SparseLayout], ...]:
    """The layers that have sparse files, in their order."""
    found = [(layer, layout_of(layer.index.sparse)) for layer in layers]
    return tuple((layer, layout) for layer, layout in found if layout is not None)
