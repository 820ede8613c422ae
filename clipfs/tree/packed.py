"""An image index as it travels between nodes: compressed, to a tenth.

Who reads it knows that a node of ours has packed it: the content cache has it sealed. Only its
length is bounded here; whether it is an image index, its reader finds out. It is marked as
another's, since the kernel is shown none but what this node has merged.

Not here: the seal and the way (`clipfs.tiers.derived`); a node's own file, which the kernel mounts
as it is (`clipfs.tree.build`).
Source: RFC 8878 (zstd).
"""

from pathlib import Path

import zstandard

from clipfs import errors
from clipfs.system.durable import write_all
from clipfs.tree.reader import ImageIndex
from clipfs.tree.superblock import mark_received

MAX_IMAGE_INDEX_BYTES = 4 << 30
"""What a merge may have in memory (`clipfs.tree.build`), and so no merge can have written more."""

_LEVEL = 1
"""The higher ones take twice the time and save nothing: chunk addresses hardly pack."""

_PIECE_BYTES = 1 << 20


def pack(path: Path, *, limit_bytes: int) -> bytes | None:
    """The image index at path, compressed.

    None if it is gone, is another node's, or has more than limit_bytes.
    """
    try:
        with path.open("rb") as file, ImageIndex.open(path) as index:
            if not index.is_own:
                return None
            with zstandard.ZstdCompressor(_LEVEL).stream_reader(file) as packing:
                packed = packing.read(limit_bytes + 1)
    except (FileNotFoundError, errors.CorruptImage):
        return None
    return packed if len(packed) <= limit_bytes else None


def unpack(packed: bytes, fd: int) -> None:
    """Write what was packed to fd, marked as another node's; CorruptImage if it is none."""
    written = 0
    try:
        for piece in zstandard.ZstdDecompressor().read_to_iter(packed, write_size=_PIECE_BYTES):
            if written + len(piece) > MAX_IMAGE_INDEX_BYTES:
                raise errors.CorruptImage(f"image index: over {MAX_IMAGE_INDEX_BYTES} bytes")
            write_all(fd, piece, written)
            written += len(piece)
        mark_received(fd)
    except zstandard.ZstdError as error:
        raise errors.CorruptImage(f"image index: {error}") from error
