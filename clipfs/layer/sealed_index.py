"""A layer index as it is stored, on a node's disk and in the content cache: sealed.

Not here: what an index says (`clipfs.layer.index`); what a seal is (`clipfs.layer.seal`).
"""

from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.layer.seal import KeyRing

KIND = "toc"


def seal_index(index: LayerIndex, layer: Layer, keys: KeyRing) -> bytes:
    """The bytes of index for storage, good for just this layer."""
    return keys.seal(
        layer_index.encode(index), kind=KIND, version=layer_index.VERSION, name=layer.cache_key
    )


def open_index(sealed: bytes, layer: Layer, keys: KeyRing) -> tuple[LayerIndex, bool] | None:
    """The index of just this layer and whether to seal it anew; None if anything is wrong."""
    opened = keys.open(sealed, kind=KIND, version=layer_index.VERSION, name=layer.cache_key)
    index = layer_index.decode(opened.content) if opened else None
    if opened is None or index is None:
        return None
    if layer.diff_id is not None and index.diff_id != layer.diff_id:
        return None
    return index, opened.renew
