"""From a name to an image that can be mounted: resolve, index its layers, merge them.

Used by mount, index and ls alike. Layers are indexed side by side; a layer that a tier knows
already costs one small read. Nothing is mounted here.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from clipfs import errors
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import Reference
from clipfs.image.registry import Registry
from clipfs.mount.groups import lone_error_unwrapped
from clipfs.tiers.stack import Tiers, TierSettings
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.build import build_image_index
from clipfs.tree.reader import ImageIndex

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An indexed image: `layers` in the image's order, `index_path` its image index."""

    image: Image
    layers: tuple[IndexedLayer, ...]
    index_path: Path
    resolve_s: float
    index_s: float


async def resolve(
    registry: Registry, reference: Reference, platform: Platform
) -> tuple[Image, float]:
    """The image that the registry names now, and the seconds that it took to say so."""
    begin = time.perf_counter()
    image = await registry.resolve(reference, platform)
    return image, time.perf_counter() - begin


async def prepare(
    image: Image, tiers: Tiers, settings: TierSettings, *, resolve_s: float
) -> Prepared:
    """Index every layer from the nearest tier, then write the image index if it is not there."""
    begin = time.perf_counter()
    distinct = list({layer.digest: layer for layer in image.layers}.values())
    indexes = dict(
        zip(
            (layer.digest for layer in distinct),
            await side_by_side(tiers.chain.load_index, distinct),
            strict=True,
        )
    )
    layers = tuple(IndexedLayer(layer=layer, index=indexes[layer.digest]) for layer in image.layers)
    path = settings.layout.image_index(cache_key(image.digest))
    if not _is_usable(path, [one.layer.digest for one in layers]):
        await build_image_index([(one.layer.digest, one.index) for one in layers], path)
    return Prepared(
        image=image,
        layers=layers,
        index_path=path,
        resolve_s=resolve_s,
        index_s=time.perf_counter() - begin,
    )


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


def _is_usable(path: Path, digests: Sequence[Digest]) -> bool:
    """Whether path holds the index of an image of these layers, as far as can be told."""
    try:
        with ImageIndex.open(path) as index:
            return index.layer_digests == tuple(digests)
    except (FileNotFoundError, errors.CorruptImage):
        return False
