"""The on-disk format: what writer and reader share. One EROFS image that holds metadata only.

512-byte blocks, extended inodes, one chunk index a file that points into device N, the
payload of layer N; of a sparse file one for each of its chunks, which point into a device of its
own (`clipfs.tree.sparse`). Little endian throughout.

Source: Linux Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h.
"""

import stat
import struct
from typing import NamedTuple

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
SLOT = 32
"""Inode numbers count slots of 32 bytes from the metadata area's start."""

SUPERBLOCK_OFFSET = 1024
MAGIC = 0xE0F5E1E2
FEATURE_CHUNKED_FILE = 0x4
FEATURE_DEVICE_TABLE = 0x8
FEATURES = FEATURE_CHUNKED_FILE | FEATURE_DEVICE_TABLE

ROOT_NID = 1
"""The root's inode number, as FUSE numbers it: both fronts show the same numbers, never 0."""

SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")

UUID_OFFSET = 48
"""Within the superblock."""

TOTALS = struct.Struct("<QQ")
"""Our own use of the 16-byte volume name, which the kernel only prints: names in the tree
without the root; bytes of regular files, each inode once."""

DEVICE_SLOT = struct.Struct("<64sII56x")
"""tag (the layer digest's hex digits; SPARSE_TAG and the number, from 0, of the layer whose sparse
files it holds), blocks, mapped_blkaddr"""

SPARSE_TAG = b"sparse:"
MAX_BLOCKS = (1 << 32) - 1
"""Of a device: a block's number has 32 bits."""

INODE = struct.Struct("<HHHHQIIIIQII16x")
"""i_format, xattr_icount, mode, reserved, size, i_u, ino, uid, gid, mtime, mtime_nsec, nlink"""

LAYOUT_PLAIN, LAYOUT_INLINE, LAYOUT_CHUNK = 0, 2, 4
EXTENDED = 1
CHUNK_BITS_MASK = 0x1F
CHUNK_INDEXES = 0x20
"""In i_u of a chunk-based inode: 8-byte indexes rather than 4-byte block addresses."""

CHUNK_INDEX = struct.Struct("<HHI")
"""advise (0), device id from 1, block"""

FILE_INODE = struct.Struct(f"{INODE.format}{CHUNK_INDEX.format[1:]}")
"""INODE with the CHUNK_INDEX that follows it at once, in a file without xattrs."""

HOLE = CHUNK_INDEX.pack(0, 0, 0xFFFF_FFFF)
"""The index of a chunk that is zeros, and nowhere."""

DIRENT = struct.Struct("<QHBB")
"""nid, nameoff, file type, reserved"""

XATTR_HEADER_BYTES = 12
XATTR_ENTRY = struct.Struct("<BBH")
"""name length without its prefix, prefix index, value length"""

XATTR_PREFIXES = {  # longest first where one begins with another
    b"user.": 1,
    b"system.posix_acl_access": 2,
    b"system.posix_acl_default": 3,
    b"trusted.": 4,
    b"security.": 6,
}
XATTR_PREFIX_OF = {index: prefix for prefix, index in XATTR_PREFIXES.items()}

FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


class Superblock(NamedTuple):
    """SUPERBLOCK's fields, in their order; volume_name holds TOTALS."""

    magic: int = MAGIC
    checksum: int = 0
    feature_compat: int = 0
    block_bits: int = BLOCK_BITS
    ext_slots: int = 0
    root_nid: int = ROOT_NID
    inodes: int = 0
    build_time: int = 0
    build_time_ns: int = 0
    blocks: int = 0
    meta_block: int = 0
    xattr_block: int = 0
    uuid: bytes = bytes(16)
    volume_name: bytes = bytes(16)
    feature_incompat: int = FEATURES
    compression: int = 0
    devices: int = 0
    device_slot: int = 0
    folder_block_bits: int = 0
    xattr_prefixes: int = 0
    xattr_prefix_start: int = 0
    packed_nid: int = 0


class RawInode(NamedTuple):
    """INODE's fields, in their order."""

    format: int
    xattr_count: int
    mode: int
    reserved: int
    size: int
    u: int
    ino: int
    uid: int
    gid: int
    mtime_s: int
    mtime_ns: int
    nlink: int


def xattr_area_bytes(count: int) -> int:
    """Bytes that xattr_icount stands for: a 12-byte header and 4-byte units."""
    return XATTR_HEADER_BYTES + 4 * (count - 1) if count else 0


def new_encoded_device(major: int, minor: int) -> int:
    """The kernel's 32-bit device number (`new_encode_dev`)."""
    return (minor & 0xFF) | (major << 8) & 0xFFF00 | (minor & ~0xFF) << 12


def chunk_bits(size: int) -> int:
    """log2 of the chunk that holds a whole file of size bytes."""
    return max(BLOCK_BITS, (size - 1).bit_length())


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
