"""Reads an image index by mmap: nothing is copied into Python objects until it is asked for.

    with ImageIndex.open(path) as index:
        nid = index.lookup(index.root, b"etc")
        inode = index.inode(nid)

The node wrote the file itself, but disks lie: every offset is checked, and a malformed image
is CorruptImage, never a crash or an endless loop.

Not here: bytes of files (`clipfs.tiers`); the format's numbers (`clipfs.tree.erofs`).
"""

import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Self

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.tree import erofs

Nid = NewType("Nid", int)
"""An inode number: the slot of the inode in the image; what users see as st_ino."""

MAX_SYMLINKS = 40
MAX_SYMLINK_BYTES = 4096
_KINDS = {number: kind for kind, number in erofs.FILE_TYPES.items()}
_NS = 1_000_000_000
_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Inode:
    """What stat(2) tells, and of a file with content where its bytes are.

    mode            with the file type
    rdev            as `os.makedev` makes it
    layer           number of the layer that holds the content; None if there is none
    payload_offset  where it begins in that layer's payload
    """

    nid: Nid
    mode: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    rdev: int
    layer: int | None
    payload_offset: int


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name of a folder; kind is a stat.S_IF* value."""

    name: bytes
    nid: Nid
    kind: int


class ImageIndex:
    """An image index, open; a context manager."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        try:
            head = erofs.SUPERBLOCK.unpack_from(data, erofs.SUPERBLOCK_OFFSET)
        except struct.error as error:
            raise errors.CorruptImage("image index: shorter than its superblock") from error
        if head[0] != erofs.MAGIC or head[3] != erofs.BLOCK_BITS:
            raise errors.CorruptImage("image index: not an EROFS image of 512-byte blocks")
        self.root = Nid(head[5])
        self._meta_start = head[10] * erofs.BLOCK
        self.entry_count, self.total_bytes = erofs.TOTALS.unpack(head[13])
        self.layer_digests = self._read_devices(head[16], head[17])

    @classmethod
    def open(cls, path: Path) -> Self:
        """FileNotFoundError if there is none; CorruptImage if it is no image index."""
        with path.open("rb") as file:
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
        kind, layer, payload_offset, rdev = stat.S_IFMT(raw.mode), None, 0, 0
        if raw.format >> 1 == erofs.LAYOUT_CHUNK:
            layer, payload_offset = self._content(erofs.round_up(tail, 8))
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
            layer,
            payload_offset,
        )

    def lookup(self, folder: Nid, name: bytes) -> Nid | None:
        """The inode of name in folder; None if there is no such name."""
        raw, start = self._folder(folder)
        low, high = 0, -(-raw.size // erofs.BLOCK) - 1
        while low < high:  # the last block whose first name is not behind ours
            middle = (low + high + 1) // 2
            if _name(self._block(raw, start, middle), 0) <= name:
                low = middle
            else:
                high = middle - 1
        if high < 0:
            return None
        block = self._block(raw, start, low)
        low, high = 0, _count(block) - 1
        while low <= high:
            middle = (low + high) // 2
            found = _name(block, middle)
            if found == name:
                return Nid(erofs.DIRENT.unpack_from(block, middle * erofs.DIRENT.size)[0])
            if found < name:
                low = middle + 1
            else:
                high = middle - 1
        return None

    def list(self, folder: Nid, start: int = 0) -> Iterator[tuple[int, DirectoryEntry]]:
        """The entries of folder from position start on, each with the position after it.

        Positions are stable over processes; "." and ".." are entries too.
        """
        raw, data_start = self._folder(folder)
        number, slot = divmod(start, erofs.BLOCK)
        for block_number in range(number, -(-raw.size // erofs.BLOCK)):
            block = self._block(raw, data_start, block_number)
            count = _count(block)
            for entry in range(slot, count):
                nid, _, kind, _ = erofs.DIRENT.unpack_from(block, entry * erofs.DIRENT.size)
                if kind not in _KINDS:
                    raise errors.CorruptImage(f"image index: folder {folder} has a bad entry")
                following = entry + 1 if entry + 1 < count else erofs.BLOCK
                yield (
                    block_number * erofs.BLOCK + following,
                    DirectoryEntry(_name(block, entry), Nid(nid), _KINDS[kind]),
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
        found: dict[bytes, bytes] = {}
        if not raw.xattr_count:
            return found
        size = erofs.xattr_area_bytes(raw.xattr_count)
        area, at = self._bytes(tail - size, size), erofs.XATTR_HEADER_BYTES
        while at + erofs.XATTR_ENTRY.size <= size:
            name_bytes, prefix, value_bytes = erofs.XATTR_ENTRY.unpack_from(area, at)
            at += erofs.XATTR_ENTRY.size
            end = at + name_bytes + value_bytes
            if prefix not in erofs.XATTR_PREFIX_OF or end > size:
                raise errors.CorruptImage(f"image index: inode {nid} has bad xattrs")
            name = erofs.XATTR_PREFIX_OF[prefix] + area[at : at + name_bytes]
            found[name] = area[at + name_bytes : end]
            at = erofs.round_up(end, 4)
        return found

    def resolve(self, path: bytes) -> Nid | None:
        """The inode at path, through symlinks, clamped to the root; None if there is none."""
        trail = [self.root]
        todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        symlinks = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            if not stat.S_ISDIR(self.inode(trail[-1]).mode):
                return None
            nid = self.lookup(trail[-1], part)
            if nid is None:
                return None
            if stat.S_ISLNK(self.inode(nid).mode):
                symlinks += 1
                if symlinks > MAX_SYMLINKS:
                    return None
                target = self.target(nid)
                if target.startswith(b"/"):
                    del trail[1:]
                todo += [one for one in reversed(target.split(b"/")) if one not in (b"", b".")]
            else:
                trail.append(nid)
        return trail[-1]

    def _read_devices(self, count: int, slot: int) -> tuple[Digest, ...]:
        table = self._bytes(slot * erofs.DEVICE_SLOT.size, count * erofs.DEVICE_SLOT.size)
        return tuple(
            Digest("sha256:" + tag.decode("ascii", "replace"))
            for tag, _, _ in erofs.DEVICE_SLOT.iter_unpack(table)
        )

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

    def _content(self, at: int) -> tuple[int, int]:
        try:
            _, device, block = erofs.CHUNK_INDEX.unpack_from(self._data, at)
        except struct.error as error:
            raise errors.CorruptImage("image index: a chunk index is out of bounds") from error
        if not 0 < device <= len(self.layer_digests):
            raise errors.CorruptImage(f"image index: there is no device {device}")
        return device - 1, block * erofs.BLOCK

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


def _count(block: bytes) -> int:
    """Entries of a folder's block: the first name follows the last record."""
    try:
        offset: int = erofs.DIRENT.unpack_from(block)[1]
    except struct.error as error:
        raise errors.CorruptImage("image index: a folder's block is cut off") from error
    count, rest = divmod(offset, erofs.DIRENT.size)
    if rest or not count or offset > len(block):
        raise errors.CorruptImage("image index: a folder's block is malformed")
    return count


def _name(block: bytes, entry: int) -> bytes:
    count = _count(block)
    start: int = erofs.DIRENT.unpack_from(block, entry * erofs.DIRENT.size)[1]
    if entry + 1 < count:
        end: int = erofs.DIRENT.unpack_from(block, (entry + 1) * erofs.DIRENT.size)[1]
        return block[start:end]
    return block[start:].rstrip(b"\0")


def _device(encoded: int) -> int:
    """`os.makedev` of the kernel's 32-bit device number."""
    import os

    return os.makedev((encoded & 0xFFF00) >> 8, (encoded & 0xFF) | (encoded >> 12) & 0xFFF00)
