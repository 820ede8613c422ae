"""The head of an image index: its superblock and the table of its devices, written and read.

A device is a layer's payload or, behind those, a layer's sparse files; tags tell which.

Not here: the format's numbers (`clipfs.tree.erofs`); the inodes (`clipfs.tree.writer`,
`clipfs.tree.reader`).
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.system.durable import write_all
from clipfs.tree import erofs
from clipfs.tree.sparse import SparseLayout

MAX_DEVICES = 0xFFFF

RECEIVED = b"merged elsewhere"
"""In the place of a UUID, of which our own images have none: the mark of one that this node got
from another. The kernel is never given such a one, who is root there may have made it."""

_U64 = (1 << 64) - 1
_TABLE = erofs.SUPERBLOCK_OFFSET + erofs.SUPERBLOCK.size
"""Where the device table begins in an image that we write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One layer as the kernel sees it: its digest names it, its payload is the data.

    sparse  of a layer that has sparse files: the device that holds them
    """

    digest: Digest
    payload_bytes: int
    sparse: SparseLayout | None = None


class DeviceRow(NamedTuple):
    """One device as the table has it."""

    tag: bytes
    size_bytes: int


class Devices(NamedTuple):
    """The table, read; sparse_layers are the numbers of the layers that have sparse files."""

    layer_digests: tuple[Digest, ...]
    sparse_layers: tuple[int, ...]
    device_bytes: tuple[int, ...]


def device_table(devices: Sequence[Device]) -> list[DeviceRow]:
    """The payload of every layer, then the sparse files of those that have some."""
    table = [DeviceRow(one.digest.partition(":")[2].encode(), one.payload_bytes) for one in devices]
    for number, one in enumerate(devices):
        if one.sparse is not None:
            table.append(DeviceRow(erofs.SPARSE_TAG + b"%d" % number, one.sparse.size_bytes))
    return table


def meta_start(devices: int) -> int:
    """Where the inodes begin, behind a head of so many devices; a multiple of a block."""
    return erofs.round_up(_TABLE + devices * erofs.DEVICE_SLOT.size, erofs.BLOCK)


def packed_head(
    devices: Sequence[DeviceRow], *, inodes: int, names: int, content_bytes: int, blocks: int
) -> bytearray:
    """The head of an image of so many inodes, names in folders, and blocks in all."""
    head = bytearray(meta_start(len(devices)))
    superblock = erofs.Superblock(
        inodes=inodes,
        blocks=blocks,
        meta_block=len(head) // erofs.BLOCK,
        volume_name=erofs.TOTALS.pack(names, min(content_bytes, _U64)),  # sparse files may say more
        feature_incompat=erofs.FEATURES if devices else erofs.FEATURE_CHUNKED_FILE,
        devices=len(devices),
        device_slot=_TABLE // erofs.DEVICE_SLOT.size,
    )
    erofs.SUPERBLOCK.pack_into(head, erofs.SUPERBLOCK_OFFSET, *superblock)
    at = _TABLE
    for tag, size in devices:
        erofs.DEVICE_SLOT.pack_into(head, at, tag, -(-size // erofs.BLOCK), 0)
        at += erofs.DEVICE_SLOT.size
    return head


def mark_received(fd: int) -> None:
    """Mark the image in fd, whatever it says of itself."""
    write_all(fd, RECEIVED, erofs.SUPERBLOCK_OFFSET + erofs.UUID_OFFSET)


def read_superblock(image: bytes | mmap.mmap) -> erofs.Superblock:
    """CorruptImage if image is not one that we would write, of its length."""
    try:
        fields = erofs.SUPERBLOCK.unpack_from(image, erofs.SUPERBLOCK_OFFSET)
    except struct.error as error:
        raise errors.CorruptImage("image index: shorter than its superblock") from error
    head = erofs.Superblock._make(fields)
    if head.magic != erofs.MAGIC or head.block_bits != erofs.BLOCK_BITS:
        raise errors.CorruptImage("image index: not an EROFS image of 512-byte blocks")
    if head.feature_incompat & ~erofs.FEATURES or head.root_nid != erofs.ROOT_NID:
        raise errors.CorruptImage("image index: an EROFS image of another kind")
    if head.blocks * erofs.BLOCK != len(image):
        raise errors.CorruptImage(
            f"image index: {len(image)} bytes, not {head.blocks} blocks of {erofs.BLOCK}"
        )
    return head


def read_devices(image: bytes | mmap.mmap, head: erofs.Superblock) -> Devices:
    """The table of image's devices; CorruptImage if it is malformed."""
    size = erofs.DEVICE_SLOT.size
    start, end = head.device_slot * size, (head.device_slot + head.devices) * size
    if end > len(image):
        raise errors.CorruptImage("image index: the device table is out of bounds")
    table = tuple(erofs.DEVICE_SLOT.iter_unpack(image[start:end]))
    tags = [tag.rstrip(b"\0") for tag, _, _ in table]
    layers = [tag for tag in tags if not tag.startswith(erofs.SPARSE_TAG)]
    sparse = [tag.removeprefix(erofs.SPARSE_TAG) for tag in tags[len(layers) :]]
    if not all(one.isdigit() and int(one) < len(layers) for one in sparse):
        raise errors.CorruptImage("image index: the device table is malformed")
    return Devices(
        tuple(Digest("sha256:" + tag.decode("ascii", "replace")) for tag in layers),
        tuple(map(int, sparse)),
        tuple(blocks * erofs.BLOCK for _, blocks, _ in table),
    )
