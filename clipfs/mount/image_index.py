"""An image's index comes to its place on this node: it is there, or is unpacked, or is merged.

    layers, is_merged = await bring(image, tiers, path, own=..., indexed=..., ...)

Another node may have merged the same layers, and have stored what came of it: a merge costs each
node 20 seconds for a million files. A server reads that as it reads its own, and trusts neither;
the kernel is shown none but this node's own. Whatever is there is used only once the image's
layers are indexed, for then it is known that its registry has them all (`clipfs.tiers.proofs`).

Not here: the merge (`clipfs.tree.build`); who stores its outcome (`clipfs.mount.server`).
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from clipfs import errors
from clipfs.image.model import Image, Layer
from clipfs.layer.index import LayerIndex
from clipfs.log import log
from clipfs.system.durable import make_atomically
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.stack import Tiers
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.build import Merger, merging
from clipfs.tree.packed import unpack
from clipfs.tree.reader import ImageIndex

ASKED_S = 0.005
"""After that the questions for indexes are on their way; their answers take longer."""

OnIndexed = Callable[[Layer, LayerIndex], None]
Layers = tuple[IndexedLayer, ...]


async def bring(
    image: Image,
    tiers: Tiers,
    path: Path,
    *,
    own: bool,
    indexed: Callable[[OnIndexed], Awaitable[Layers]],
    meanwhile: Callable[[], None],
    on_merge: Callable[[], None],
) -> tuple[Layers, bool]:
    """The image's layers, indexed; their image index is at path then. Whether it was merged here.

    own                  another node's will not do
    indexed              has the layers indexed; is told who wants to hear of each one
    meanwhile, on_merge  as of `clipfs.mount.prepare.prepared`
    """
    layers = await indexed(lambda *_: None) if _is_there(path) else ()
    if layers and _is_usable(path, layers, own=own):
        return layers, False
    async with merging(image.layers) as merger, trio.open_nursery() as nursery:
        nursery.start_soon(_once_all_have_been_asked, meanwhile)
        shared = _Shared()
        nursery.start_soon(shared.look, image, None if own else tiers.content_cache, merger)
        for one in layers:
            merger.give(one.layer, one.index)
        layers = layers or await indexed(merger.give)
        if await shared.is_put(path, layers) or _is_usable(path, layers, own=own):
            return layers, False  # another node has merged it, or another process was quicker
        on_merge()
        await _built(merger, image, path)
    return layers, True


def _is_there(path: Path) -> bool:
    return path.exists()


async def _once_all_have_been_asked(meanwhile: Callable[[], None]) -> None:
    """In this thread: modules that two threads load at once may deadlock, says importlib."""
    await trio.sleep(ASKED_S)
    meanwhile()


class _Shared:
    """What the content cache has, looked for while the layers are indexed."""

    def __init__(self) -> None:
        self._packed: bytes | None = None
        self._is_known = trio.Event()

    async def look(self, image: Image, cache: ContentCacheTier | None, merger: Merger) -> None:
        """Have merger begin as soon as nothing is found."""
        if cache is not None:
            self._packed = await cache.load_image_index(image.digest)
        if self._packed is None:
            merger.begin()
        self._is_known.set()

    async def is_put(self, path: Path, layers: Layers) -> bool:
        """Whether it was found, is that of layers, and is at path now."""
        await self._is_known.wait()
        if self._packed is None:
            return False
        return await trio.to_thread.run_sync(_put, self._packed, path, layers)


def _put(packed: bytes, path: Path, layers: Layers) -> bool:
    try:
        make_atomically(path, lambda fd: unpack(packed, fd))
    except errors.CorruptImage as error:
        log.warning("image index from the content cache is none", reason=str(error))
        return False
    return _is_usable(path, layers, own=False)


async def _built(merger: Merger, image: Image, path: Path) -> None:
    try:
        await merger.build(path)
    except errors.CorruptImage as error:
        raise errors.CorruptImage(
            f"{image.reference}: its layers make no tree: {error}; build the image again"
        ) from error


def _is_usable(path: Path, layers: Sequence[IndexedLayer], *, own: bool) -> bool:
    """Whether path holds the index of an image of these layers, as far as can be told."""
    digests = tuple(one.layer.digest for one in layers)
    sparse = tuple(number for number, one in enumerate(layers) if one.index.sparse)
    try:
        with ImageIndex.open(path) as index:
            found = (index.layer_digests, index.sparse_layers)
            return found == (digests, sparse) and (index.is_own or not own)
    except FileNotFoundError:
        return False
    except errors.CorruptImage as error:
        log.warning("image index is damaged, it is made again", reason=str(error))
        return False
