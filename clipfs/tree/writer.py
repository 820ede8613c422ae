"""A merged tree becomes an EROFS metadata image, the same bytes for the same layers.

Layout: superblock and device table; the inodes, the root's first, each with its xattrs and
its chunk index or symlink target; then the blocks of folders and of long symlink targets.

Not here: the format's numbers (`clipfs.tree.erofs`); the head (`clipfs.tree.superblock`); where the
file goes (`clipfs.tree.build`).
"""

import stat
import struct
from collections.abc import Sequence

from clipfs import errors
from clipfs.layer.archive.names import shown
from clipfs.layer.index import FILE, SYMLINK, Entry, EntryKind
from clipfs.tree import erofs, folder
from clipfs.tree.node import Node, walk
from clipfs.tree.sparse import Placed, chunk_blocks, sparse_chunk_bits
from clipfs.tree.superblock import MAX_DEVICES, Device, device_table, meta_start, packed_head
from clipfs.tree.xattrs import area_bytes, packed

_MODES = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.SPARSE: stat.S_IFREG,
    EntryKind.DIRECTORY: stat.S_IFDIR,
    EntryKind.SYMLINK: stat.S_IFLNK,
    EntryKind.CHARACTER: stat.S_IFCHR,
    EntryKind.BLOCK: stat.S_IFBLK,
    EntryKind.FIFO: stat.S_IFIFO,
}
_TYPES = [_MODES.get(kind, 0) for kind in (0, *EntryKind)]
"""By kind: a member of an enumeration is slow to hash, and fast as an index."""

_FOLDER_TYPES = [erofs.FILE_TYPES.get(kind, 0) for kind in _TYPES]
_U64 = (1 << 64) - 1


def write_image(root: Node, devices: Sequence[Device]) -> bytearray:
    """The image of the tree under root; devices[n] is the payload of layer n.

    The kernel's devices are those payloads, then the sparse files of the layers that have some.

    Raises  UnsupportedImage if there are more layers than the format can number; CorruptImage
            if a sparse file is not in its layer's device, or an inode says what the format
            cannot: no tar makes one, a wrong layer index may
    """
    table = device_table(devices)
    if len(table) > MAX_DEVICES:
        raise errors.UnsupportedImage(f"an image of {len(devices)} layers, over {MAX_DEVICES}")
    nodes = list(walk(root))
    writer = _Writer(meta_start(len(table)), devices)
    writer.place(nodes)
    for number, node in enumerate(nodes, start=1):
        try:
            writer.write(node, number)
        except struct.error as error:
            raise errors.CorruptImage(f"{shown(node.entry.path)} fits no image: {error}") from error
    image = writer.image
    head = packed_head(
        table,
        inodes=len(nodes),
        names=writer.names,
        content_bytes=writer.content_bytes,
        blocks=len(image) // erofs.BLOCK,
    )
    image[: len(head)] = head
    return image


def _is_chunked(entry: Entry) -> bool:
    return entry.size > 0 and entry.kind in (FILE, EntryKind.SPARSE)


def _is_plain_file(entry: Entry) -> bool:
    """Whether it is a file of one chunk, and without xattrs."""
    return entry.kind is FILE and entry.size > 0 and not entry.xattrs


def _is_inline(entry: Entry) -> bool:
    """Whether a symlink's target fits behind its inode, wherever in a block that begins."""
    if entry.kind is not SYMLINK:
        return False
    tail = (erofs.INODE.size + area_bytes(entry.xattrs)) % erofs.SLOT
    return tail + len(entry.target) <= erofs.BLOCK - erofs.SLOT


class _Writer:
    """Places the inodes, then fills the image: inodes at their places, blocks appended."""

    def __init__(self, start: int, devices: Sequence[Device]) -> None:
        self._meta_start = start
        numbers = [number for number, one in enumerate(devices) if one.sparse is not None]
        self._sparse_ids = {n: len(devices) + 1 + at for at, n in enumerate(numbers)}
        self._sparse = [one.sparse.placed() if one.sparse is not None else {} for one in devices]
        self.image = bytearray()
        self.names = self.content_bytes = 0

    def place(self, nodes: Sequence[Node]) -> None:
        """Give every node its nid, the root's first, make room for all inodes, and count."""
        at = self._meta_start + erofs.ROOT_NID * erofs.SLOT
        for node in nodes:
            entry = node.entry
            at += -at % erofs.SLOT
            self.content_bytes += entry.size
            if node.children is not None:
                self.names += len(node.children)
            if _is_plain_file(entry):
                end = at + erofs.FILE_INODE.size
            elif node.children is not None and not entry.xattrs:
                end = at + erofs.INODE.size
            else:
                at, end = self._room(node, at)
            node.nid = (at - self._meta_start) // erofs.SLOT
            at = end
        self.image = bytearray(erofs.round_up(at, erofs.BLOCK))

    def _room(self, node: Node, at: int) -> tuple[int, int]:
        """Where from at on, which is a slot's begin, a node's inode begins and ends."""
        before = erofs.INODE.size + area_bytes(node.entry.xattrs)
        if _is_inline(node.entry):
            tail, size = (at + before) % erofs.BLOCK, len(node.entry.target)
            if tail + size > erofs.BLOCK:  # a target must not cross a block
                at += erofs.round_up(erofs.BLOCK - tail, erofs.SLOT)
            return at, at + before + size
        if _is_chunked(node.entry):
            chunks = -(-node.entry.size >> self._chunk_bits(node))
            return at, erofs.round_up(at + before, 8) + chunks * erofs.CHUNK_INDEX.size
        return at, at + before

    def write(self, node: Node, number: int) -> None:
        """Write node's inode, the number-th, and its blocks."""
        if _is_plain_file(node.entry):
            self._write_plain_file(node, number)
        else:
            self._write(node, number)

    def _write_plain_file(self, node: Node, number: int) -> None:
        """As `_write`, of what most inodes are: an image is written in two thirds of the time."""
        entry = node.entry
        at = self._meta_start + node.nid * erofs.SLOT
        layout, mode = erofs.EXTENDED | erofs.LAYOUT_CHUNK << 1, stat.S_IFREG | entry.mode
        union = (erofs.chunk_bits(entry.size) - erofs.BLOCK_BITS) | erofs.CHUNK_INDEXES
        erofs.FILE_INODE.pack_into(
            self.image, at, layout, 0, mode, 0, entry.size, union, number, entry.uid, entry.gid,
            entry.mtime_s & _U64, entry.mtime_ns, node.links,
            0, node.layer + 1, entry.payload_offset // erofs.BLOCK,
        )  # fmt: skip # a line a part: inode, times and links, chunk index

    def _write(self, node: Node, number: int) -> None:
        entry, at = node.entry, self._meta_start + node.nid * erofs.SLOT
        xattrs = packed(entry.xattrs)
        tail = at + erofs.INODE.size + len(xattrs)
        if xattrs:
            self.image[at + erofs.INODE.size : tail] = xattrs
        layout, size, union = erofs.LAYOUT_PLAIN, entry.size, 0
        if node.children is not None:
            union, size = self._append_folder(node)
        elif _is_chunked(entry):
            layout = erofs.LAYOUT_CHUNK
            union = (self._chunk_bits(node) - erofs.BLOCK_BITS) | erofs.CHUNK_INDEXES
            table = self._chunk_table(node)
            start = erofs.round_up(tail, 8)
            self.image[start : start + len(table)] = table
        elif entry.kind is SYMLINK:
            size = len(entry.target)
            if _is_inline(entry):
                layout = erofs.LAYOUT_INLINE
                self.image[tail : tail + size] = entry.target
            else:
                union = self._append(entry.target)
        elif entry.kind in (EntryKind.CHARACTER, EntryKind.BLOCK):
            union = erofs.new_encoded_device(entry.rdev_major, entry.rdev_minor)
        erofs.INODE.pack_into(
            self.image,
            at,
            erofs.EXTENDED | layout << 1,
            1 + (len(xattrs) - erofs.XATTR_HEADER_BYTES) // 4 if xattrs else 0,
            _TYPES[entry.kind] | entry.mode,
            0,
            size,
            union,
            number,
            entry.uid,
            entry.gid,
            entry.mtime_s & _U64,
            entry.mtime_ns,
            node.links,
        )

    def _placed(self, node: Node) -> Placed | None:
        """Where the chunks of a sparse file stand; None if it is a hole from end to end."""
        start = node.entry.payload_offset
        if not start:
            return None
        placed = self._sparse[node.layer].get(start)
        if placed is None or placed.map.size != node.entry.size:  # zeros would be wrong bytes
            raise errors.CorruptImage(f"sparse file {shown(node.entry.path)} has no map")
        return placed

    def _chunk_bits(self, node: Node) -> int:
        if node.entry.kind == EntryKind.FILE:
            return erofs.chunk_bits(node.entry.size)
        placed = self._placed(node)
        return placed.chunk_bits if placed else sparse_chunk_bits(node.entry.size, 0)

    def _chunk_table(self, node: Node) -> bytes:
        entry = node.entry
        if entry.kind == EntryKind.FILE:
            block = entry.payload_offset // erofs.BLOCK
            return erofs.CHUNK_INDEX.pack(0, node.layer + 1, block)
        placed = self._placed(node)
        if placed is None:
            return erofs.HOLE * -(-entry.size >> self._chunk_bits(node))
        device = self._sparse_ids[node.layer]
        return b"".join(
            erofs.HOLE if block is None else erofs.CHUNK_INDEX.pack(0, device, block)
            for block in chunk_blocks(placed)
        )

    def _append(self, data: bytes | bytearray) -> int:
        """Add data in blocks of its own; the number of the first."""
        block = len(self.image) // erofs.BLOCK
        self.image += data.ljust(erofs.round_up(len(data), erofs.BLOCK), b"\0")
        return block

    def _append_folder(self, node: Node) -> tuple[int, int]:
        """Add a folder's blocks; the number of the first, and the folder's size."""
        assert node.children is not None
        here = erofs.FILE_TYPES[stat.S_IFDIR]
        rows = [(b".", node.nid, here), (b"..", node.parent.nid, here)]
        rows += [
            (name, one.nid, _FOLDER_TYPES[one.entry.kind]) for name, one in node.children.items()
        ]
        rows.sort()
        blocks = folder.in_blocks(rows)
        return self._append(blocks), len(blocks)
