"""Reads an image index by mmap: nothing is copied into Python objects until it is asked for.

    with ImageIndex.open(path) as index:
        nid = index.lookup(index.root, b"etc")
        inode = index.inode(nid)

The file may be another node's, and disks lie: every offset is checked, and a malformed image
is CorruptImage, never a crash or an endless loop.

Not here: bytes of files (`clipfs.tiers`); the format's numbers (`clipfs.tree.erofs`); the head
(`clipfs.tree.superblock`); chunk tables (`clipfs.tree.chunk_table`); paths (`clipfs.tree.paths`).
"""

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Self

from clipfs import errors
from clipfs.system.cached import Unreadable, open_regular
from clipfs.tree import chunk_table, erofs, superblock
from clipfs.tree import folder as folders
from clipfs.tree.chunk_table import Chunks, Piece
from clipfs.tree.xattrs import unpacked

Nid = NewType("Nid", int)
"""An inode number: the slot of the inode in the image; what users see as st_ino."""

MAX_SYMLINK_BYTES = 4096
_KINDS = {number: kind for kind, number in erofs.FILE_TYPES.items()}
"""File type in a folder -> stat.S_IF*."""
_NS = 1_000_000_000
_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Inode:
    """What stat(2) tells, and of a file with content where its bytes are.

    mode           with the file type
    rdev           as `os.makedev` makes it
    device         where the content is: the number of a layer or, behind those, of a layer's sparse
                   files; None if there is no content, or if it is in `chunks`
    device_offset  where it begins there: of a layer, in its payload
    chunks         of content in several pieces
    """

    nid: Nid
    mode: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    rdev: int
    device: int | None
    device_offset: int
    chunks: Chunks | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name of a folder; kind is a stat.S_IF* value."""

    name: bytes
    nid: Nid
    kind: int


class ImageIndex:
    """An image index, open; a context manager. `is_own`: this node has merged it."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        head = superblock.read_superblock(data)
        self.root = Nid(head.root_nid)
        self.is_own = head.uuid != superblock.RECEIVED
        self._meta_start = head.meta_block * erofs.BLOCK
        self.entry_count, self.total_bytes = erofs.TOTALS.unpack(head.volume_name)
        devices = superblock.read_devices(data, head)
        self.layer_digests, self.sparse_layers, self._device_bytes = devices

    @classmethod
    def open(cls, path: Path) -> Self:
        """FileNotFoundError if there is none; CorruptImage if it is none, or unreadable."""
        try:
            fd = open_regular(path)
        except Unreadable as error:
            raise errors.CorruptImage(f"image index {path}: {error.strerror}") from error
        with open(fd, "rb") as file:
            try:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise errors.CorruptImage(f"image index {path} is empty") from error
        try:
            return cls(data)
        except errors.CorruptImage:
            data.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def inode(self, nid: Nid) -> Inode:
        raw, tail = self._raw(nid)
        kind, rdev = stat.S_IFMT(raw.mode), 0
        device, device_offset, chunks = None, 0, None
        if kind not in erofs.FILE_TYPES or raw.mtime_ns >= _NS:
            raise errors.CorruptImage(f"image index: inode {nid} is malformed")
        if kind == stat.S_IFREG and raw.size:
            chunks = chunk_table.chunks_of(raw, tail, self._size)
            if raw.size <= 1 << chunks.bits:
                device, device_offset, _ = chunk_table.piece_of(
                    self._data, self._device_bytes, chunks, 0, raw.size
                )
                chunks = None if device is not None else chunks
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            rdev = _device(raw.u)
        seconds = raw.mtime_s - ((raw.mtime_s & _SIGN) << 1)
        return Inode(
            nid,
            raw.mode,
            raw.size,
            raw.uid,
            raw.gid,
            seconds * _NS + raw.mtime_ns,
            raw.nlink,
            rdev,
            device,
            device_offset,
            chunks,
        )

    def pieces(self, inode: Inode, offset: int, length: int) -> list[Piece]:
        """Where length bytes of a file from offset on are; they end within it."""
        if inode.device is not None:
            return [Piece(inode.device, inode.device_offset + offset, length)]
        if inode.chunks is None:
            return []
        return chunk_table.pieces(
            self._data, self._device_bytes, inode.chunks, inode.size, offset, length
        )

    def lookup(self, folder: Nid, name: bytes) -> Nid | None:
        """The inode of name in folder; None if there is no such name."""
        raw, start = self._folder(folder)
        low, high = 0, -(-raw.size // erofs.BLOCK) - 1
        while low < high:  # the last block whose first name is not behind ours
            middle = (low + high + 1) // 2
            if folders.first_name(self._block(raw, start, middle)) <= name:
                low = middle
            else:
                high = middle - 1
        if high < 0:
            return None
        nid = folders.find(self._block(raw, start, low), name)
        return None if nid is None else Nid(nid)

    def list(self, folder: Nid, start: int = 0) -> Iterator[tuple[int, DirectoryEntry]]:
        """The entries of folder from position start on, each with the position after it.

        Positions are stable over processes; "." and ".." are entries too.
        """
        raw, data_start = self._folder(folder)
        number, slot = divmod(start, erofs.BLOCK)
        for block_number in range(number, -(-raw.size // erofs.BLOCK)):
            block = self._block(raw, data_start, block_number)
            count = folders.count(block)
            for place in range(slot, count):
                name, nid, kind = folders.record(block, place, count)
                if kind not in _KINDS or not name or b"/" in name or b"\0" in name:
                    raise errors.CorruptImage(f"image index: folder {folder} has a bad entry")
                following = place + 1 if place + 1 < count else erofs.BLOCK
                yield (
                    block_number * erofs.BLOCK + following,
                    DirectoryEntry(name, Nid(nid), _KINDS[kind]),
                )
            slot = 0

    def target(self, nid: Nid) -> bytes:
        """A symlink's target; CorruptImage if nid is no symlink."""
        raw, tail = self._raw(nid)
        if stat.S_IFMT(raw.mode) != stat.S_IFLNK or raw.size > MAX_SYMLINK_BYTES:
            raise errors.CorruptImage(f"image index: inode {nid} is not a symlink")
        if raw.format >> 1 == erofs.LAYOUT_INLINE:
            return self._bytes(tail, raw.size)
        return self._bytes(raw.u * erofs.BLOCK, raw.size)

    def xattrs(self, nid: Nid) -> dict[bytes, bytes]:
        """Full name -> value."""
        raw, tail = self._raw(nid)
        size = erofs.xattr_area_bytes(raw.xattr_count)
        return unpacked(self._bytes(tail - size, size))

    def _raw(self, nid: Nid) -> tuple[erofs.RawInode, int]:
        """The inode's fields, and the offset of what follows it and its xattrs."""
        at = self._meta_start + nid * erofs.SLOT
        try:
            raw = erofs.RawInode._make(erofs.INODE.unpack_from(self._data, at))
        except (struct.error, OverflowError) as error:
            raise errors.CorruptImage(f"image index: inode {nid} is out of bounds") from error
        if not raw.format & erofs.EXTENDED:
            raise errors.CorruptImage(f"image index: inode {nid} is malformed")
        return raw, at + erofs.INODE.size + erofs.xattr_area_bytes(raw.xattr_count)

    def _folder(self, nid: Nid) -> tuple[erofs.RawInode, int]:
        raw, _ = self._raw(nid)
        if stat.S_IFMT(raw.mode) != stat.S_IFDIR or raw.format >> 1 != erofs.LAYOUT_PLAIN:
            raise errors.CorruptImage(f"image index: inode {nid} is not a folder")
        start = raw.u * erofs.BLOCK
        if start + raw.size > self._size:
            raise errors.CorruptImage(f"image index: folder {nid} is out of bounds")
        return raw, start

    def _block(self, raw: erofs.RawInode, start: int, number: int) -> bytes:
        at = number * erofs.BLOCK
        return self._data[start + at : start + min(at + erofs.BLOCK, raw.size)]

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > self._size:
            raise errors.CorruptImage("image index: an offset is out of bounds")
        return self._data[at : at + size]


def _device(encoded: int) -> int:
    """`os.makedev` of the kernel's 32-bit device number."""
    return os.makedev((encoded & 0xFFF00) >> 8, (encoded & 0xFF) | (encoded >> 12) & 0xFFF00)
