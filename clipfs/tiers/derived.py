"""What is derived from layers, as the content cache keeps it: sealed indexes and origin records.

The index of an image is derived from those of its layers: who finds it need not merge them. It is
there under the key of the image's manifest, packed, and nothing here looks into it.

One that is not what this node would store is replaced: its signer had an older key, or another.

Not here: pages (`clipfs.tiers.storer`); reading (`clipfs.tiers.derived_reader`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import trio

from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Layer
from clipfs.layer.index import LayerIndex
from clipfs.layer.layout import IMAGE_INDEX_VERSION, image_index_name, layer_index_name
from clipfs.layer.limits import MAX_SHARED_INDEX_BYTES
from clipfs.layer.origin import MAX_RECORD_BYTES, open_record, record_name, seal_record
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import open_index, seal_index
from clipfs.log import log
from clipfs.tiers.content.store import ContentRefused, ContentStore, Found
from clipfs.tiers.tier import IndexedLayer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Generic[T]):
    """A sealed object under `key`; `what` it is and of what, in log lines.

    open  what its bytes say, and whether to seal that anew; None if they prove nothing
    seal  the bytes that say so, signed with the key in use; may take a while
    part  what is read of it at most; None: all
    """

    what: str
    of: Mapping[str, str]
    key: str
    open: Callable[[bytes | bytearray], tuple[T, bool] | None]
    seal: Callable[[T], bytes]
    part: range | None = None


def index_of(layer: Layer, keys: KeyRing) -> Derived[LayerIndex]:
    return Derived(
        what="layer index",
        of=_named(layer),
        key=layer_index_name(layer.cache_key),
        open=lambda sealed: open_index(sealed, layer, keys),
        seal=lambda index: seal_index(index, layer, keys, packed=True),
    )


def origin_of(layer: Layer, host: str, keys: KeyRing) -> Derived[str]:
    name = record_name(layer.cache_key, host)
    return Derived(
        what="origin record",
        of=_named(layer),
        key=name,
        open=lambda sealed: open_record(sealed, layer, keys, name=name),
        seal=lambda host: seal_record(layer, host, keys),
        part=range(MAX_RECORD_BYTES),
    )


def image_index_of(image: Digest, keys: KeyRing) -> Derived[bytes]:
    """image  the digest of its manifest"""
    key = cache_key(image)

    def opened(sealed: bytes | bytearray) -> tuple[bytes, bool] | None:
        found = keys.open(sealed, kind="erofs", version=IMAGE_INDEX_VERSION, name=key)
        return None if found is None else (found.content, found.renew)

    return Derived(
        what="image index",
        of={"image": image},
        key=image_index_name(key),
        open=opened,
        seal=lambda packed: keys.seal(packed, kind="erofs", version=IMAGE_INDEX_VERSION, name=key),
    )


def _named(layer: Layer) -> dict[str, str]:
    return {"layer": layer.digest, "cache_key": layer.cache_key}


async def store_derived(
    cache: ContentStore, layer: IndexedLayer, hosts: Iterable[str], keys: KeyRing
) -> None:
    """Store the layer's origin records, then its index: who finds that must not miss those.

    hosts   for which this node has a record
    Raises  ContentCacheDown
    """
    for host in hosts:
        await store_origin(cache, layer.layer, host, keys)
    await _store(cache, index_of(layer.layer, keys), layer.index)


async def store_origin(cache: ContentStore, layer: Layer, host: str, keys: KeyRing) -> None:
    """Store one origin record, which this node has.

    Raises  ContentCacheDown
    """
    await _store(cache, origin_of(layer, host, keys), host)


async def store_image_index(
    cache: ContentStore, image: Digest, packed: bytes, keys: KeyRing
) -> None:
    """Store the index of the image whose manifest has this digest.

    Raises  ContentCacheDown
    """
    await _store(cache, image_index_of(image, keys), packed)


async def is_derived_stored(
    cache: ContentStore, layer: IndexedLayer, hosts: Iterable[str], keys: KeyRing
) -> bool:
    """Whether all copies of what `store_derived` stores should be there, and right.

    Raises  ContentCacheDown
    """
    for host in hosts:
        if not await _is_stored(cache, origin_of(layer.layer, host, keys), host):
            return False
    return await _is_stored(cache, index_of(layer.layer, keys), layer.index)


async def _is_stored(cache: ContentStore, one: Derived[T], said: T) -> bool:
    found = await cache.get(one.key, part=one.part)
    return found is not None and _is_right(found, one, said) and not found.is_alone


def check_index_size(index_bytes: int) -> None:
    """ContentRefused if an index of so many bytes is too large to be shared."""
    if index_bytes > MAX_SHARED_INDEX_BYTES:
        raise ContentRefused(
            f"its index has {index_bytes} bytes, over {MAX_SHARED_INDEX_BYTES}: too large to be "
            "shared; each node downloads it, or spread it over more layers"
        )


async def _store(cache: ContentStore, one: Derived[T], said: T) -> None:
    sealed = await trio.to_thread.run_sync(partial(one.seal, said))
    check_index_size(len(sealed))
    found = await cache.get(one.key, part=one.part, dear=True)
    if found is None or found.is_alone:
        await cache.put(one.key, sealed, copies=await cache.lacking(one.key))
    if found is not None and not _is_right(found, one, said):
        log.warning(f"another {one.what} is replaced", **one.of)
        await cache.put(one.key, sealed, replaces=found.etag)


def _is_right(found: Found, one: Derived[T], said: T) -> bool:
    """Whether a copy says just this, and is signed with the key that is in use."""
    return one.open(found.data) == (said, False)
