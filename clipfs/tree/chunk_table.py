"""Chunk tables: on which device, and where there, the bytes of a file in an image index are.

    chunks = chunks_of(raw_inode, tail, len(image))
    pieces(image, device_bytes, chunks, size, offset, length)

Not here: what a device is (`clipfs.tree.superblock`); the inode (`clipfs.tree.reader`).
"""

import mmap
from collections.abc import Sequence
from typing import NamedTuple

from clipfs import errors
from clipfs.tree import erofs


class Chunks(NamedTuple):
    """A file's chunk table in the image: log2 of a chunk's bytes, and where the table begins."""

    bits: int
    table: int


class Piece(NamedTuple):
    """length bytes of a file, on a device from offset on; device None: they are zeros."""

    device: int | None
    offset: int
    length: int


def chunks_of(raw: erofs.RawInode, tail: int, image_bytes: int) -> Chunks:
    """The chunk table of a file with content; CorruptImage unless it lies within the image.

    tail  where the inode and its xattrs end
    """
    if raw.format >> 1 != erofs.LAYOUT_CHUNK:
        raise errors.CorruptImage("image index: a file without a chunk index")
    chunks = Chunks(
        erofs.BLOCK_BITS + (raw.u & erofs.CHUNK_BITS_MASK),
        erofs.round_up(tail, erofs.CHUNK_INDEX.size),
    )
    if chunks.table + (-(-raw.size >> chunks.bits)) * erofs.CHUNK_INDEX.size > image_bytes:
        raise errors.CorruptImage("image index: a chunk table is out of bounds")
    return chunks


def piece_of(
    image: bytes | mmap.mmap, device_bytes: Sequence[int], chunks: Chunks, number: int, size: int
) -> Piece:
    """Where the first size bytes of chunk number are; CorruptImage if on no device.

    device_bytes  how long each device of the image is
    """
    at = chunks.table + number * erofs.CHUNK_INDEX.size
    raw = image[at : at + erofs.CHUNK_INDEX.size]
    if raw == erofs.HOLE:
        return Piece(None, 0, size)
    _, device, block = erofs.CHUNK_INDEX.unpack(raw)
    offset = block * erofs.BLOCK
    if not 0 < device <= len(device_bytes):
        raise errors.CorruptImage(f"image index: there is no device {device}")
    if offset + size > device_bytes[device - 1]:
        raise errors.CorruptImage("image index: a file reaches beyond its layer")
    return Piece(device - 1, offset, size)


def pieces(
    image: bytes | mmap.mmap,
    device_bytes: Sequence[int],
    chunks: Chunks,
    size: int,
    offset: int,
    length: int,
) -> list[Piece]:
    """Where length bytes from offset on are, of a file of size bytes; as few pieces as can be."""
    found: list[Piece] = []
    end = offset + length
    while offset < end:
        number = offset >> chunks.bits
        start = number << chunks.bits
        chunk_bytes = min(size - start, 1 << chunks.bits)
        device, at, _ = piece_of(image, device_bytes, chunks, number, chunk_bytes)
        step = min(start + chunk_bytes, end) - offset
        piece = Piece(device, 0 if device is None else at + offset - start, step)
        if found and _follows(found[-1], piece):
            found[-1] = found[-1]._replace(length=found[-1].length + step)
        else:
            found.append(piece)
        offset += step
    return found


def _follows(piece: Piece, other: Piece) -> bool:
    return other.device == piece.device and (
        other.device is None or other.offset == piece.offset + piece.length
    )
