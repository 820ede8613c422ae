"""Are these bytes the layer's? Asked of everything that comes from beyond the node."""

from blake3 import blake3

from clipfs.layer.index import CHUNK_BYTES, LayerIndex


def first_wrong_chunk(index: LayerIndex, chunks: range, data: bytes | bytearray) -> int | None:
    """The first of chunks whose bytes in data differ from the index; None if all are right.

    data  the payload of just these chunks, the payload's last one short
    """
    view = memoryview(data)
    for place, chunk in enumerate(chunks):
        piece = view[place * CHUNK_BYTES : (place + 1) * CHUNK_BYTES]
        if blake3(piece).digest() != index.chunk_digest(chunk):
            return chunk
    return None
