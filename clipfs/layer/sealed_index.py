"""A layer index as it is stored, on a node's disk and in the content cache: sealed.

In the content cache it is packed first, to a fifth where a layer has many files: every node reads
it there before it shows the image. On a disk it is not, so that a later mount need not unpack it.

Not here: what an index says (`clipfs.layer.index`); what a seal is (`clipfs.layer.seal`).
Source: RFC 1950 (zlib), whose first byte no MessagePack array of an index's length begins with.
"""

import zlib

from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.layer.seal import KeyRing

KIND = "toc"

MAX_INDEX_BYTES = 256 << 20
"""Of one that was packed. Chunk digests do not pack, so that `MAX_SHARED_INDEX_BYTES` holds them
too, 64 MiB; entries at `MAX_ENTRY_BYTES` are 160 MiB, sparse maps at their limits 16 bytes a run
and 24 a member, 19 MiB: 243 MiB."""

_ZLIB = b"\x78"
_FASTEST = 1


def seal_index(index: LayerIndex, layer: Layer, keys: KeyRing, *, packed: bool = False) -> bytes:
    """The bytes of index for storage, good for just this layer."""
    content = layer_index.encode(index)
    if packed:
        content = zlib.compress(content, _FASTEST)
    return keys.seal(content, kind=KIND, version=layer_index.VERSION, name=layer.cache_key)


def open_index(
    sealed: bytes | bytearray, layer: Layer, keys: KeyRing
) -> tuple[LayerIndex, bool] | None:
    """The index of just this layer and whether to seal it anew; None if anything is wrong."""
    opened = keys.open(sealed, kind=KIND, version=layer_index.VERSION, name=layer.cache_key)
    content = _unpacked(opened.content) if opened else None
    index = layer_index.decode(content) if content is not None else None
    if opened is None or index is None:
        return None
    if layer.diff_id is not None and index.diff_id != layer.diff_id:
        return None
    return index, opened.renew


def _unpacked(content: bytes) -> bytes | None:
    """What was packed, if it was; None if it is damaged or too long: a signer may be wrong, too."""
    if not content.startswith(_ZLIB):
        return content
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(content, MAX_INDEX_BYTES + 1)
    except zlib.error:
        return None
    whole = unpacker.eof and not unpacker.unused_data and len(found) <= MAX_INDEX_BYTES
    return found if whole else None
