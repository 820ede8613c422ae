"""The EROFS reader: whatever the image, it answers within it, or says that it is corrupt."""

import struct
from collections.abc import Iterable
from random import Random

from clipfs import errors
from clipfs.layer.index import EntryKind
from clipfs.tree import erofs
from clipfs.tree.paths import resolve
from tests.fuzz.images import Walk
from tests.fuzz.judge import Mutate, Outcome, expect_plain
from tests.support.entries import device, file, folder, image_of, link, symlink

_SUPER = erofs.SUPERBLOCK_OFFSET
_SLOT_FIELDS = ("<H", 0), ("<H", 2), ("<H", 4), ("<Q", 8), ("<I", 16), ("<Q", 32), ("<I", 40)
_SUPER_FIELDS = ("<I", 40), ("<H", 86), ("<H", 88), ("<I", 80), ("<H", 14), ("<I", 36)
_VALUES = [0, 1, 2, 3, 4, 5, 9, 31, 64, 511, 512, 513, 0x41ED, 0x81A4, 0xA1FF, 10**9, 0xFFFF,
           0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1]  # fmt: skip


def seeds() -> Iterable[bytes]:
    xattrs = ((b"user.a", b"value"), (b"user.b", b"v" * 300))
    acl = ((b"security.capability", b"c" * 20), (b"system.posix_acl_access", b"acl"))
    return [
        image_of([]),
        image_of([file(b"a", size=5), folder(b"d"), link(b"d/b", b"a"), symlink(b"s", b"d")]),
        image_of([file(b"d/%060d" % n, size=600, offset=512 * n) for n in range(16)], [file(b"e")]),
        image_of([folder(b"x", xattrs=xattrs), file(b"y", size=1, xattrs=acl, mtime_s=-5)]),
        image_of([symlink(b"long", b"t" * 900), symlink(b"up", b"../../x/./y"), folder(b"x/y")]),
        image_of([device(b"c", EntryKind.CHARACTER, 1, 3), device(b"b", EntryKind.BLOCK, 259, 70)]),
        image_of([file(b"a/b/c/d/e", size=512)], [file(b"a/b/c/f", size=513, offset=1024)]),
    ]


def run(data: bytes) -> Outcome:
    try:
        walk = Walk(data)
    except errors.CorruptImage as error:
        expect_plain(error)
        return Outcome.STOPPED
    for path in (b"d/b", b"s/../up/x", b"long", b"a/b/c/d/e"):
        try:
            resolve(walk.index, path)
        except errors.CorruptImage as error:
            expect_plain(error)
    return Outcome.REFUSED if walk.refusals else Outcome.READ


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    image = bytearray(data)
    for _ in range(random.randint(1, 4)):
        which = random.random()
        if which < 0.2:
            image = bytearray(blind(bytes(image), max_bytes))
        elif which < 0.3:
            _set(image, _SUPER, random.choice(_SUPER_FIELDS), random)
        elif which < 0.65:
            slot = random.randrange(max(1, (len(image) - _meta(image)) // erofs.SLOT))
            _set(image, _meta(image) + slot * erofs.SLOT, random.choice(_SLOT_FIELDS), random)
        elif which < 0.75:  # what stands behind an inode: chunk index, xattrs, a target
            slot = random.randrange(max(1, (len(image) - _meta(image)) // erofs.SLOT))
            field = random.choice(("<B", "<H", "<I")), 64 + random.randrange(32)
            _set(image, _meta(image) + slot * erofs.SLOT, field, random)
        elif which < 0.95:
            _set_record(image, random)
        else:
            image += image[-erofs.BLOCK * random.randint(1, 3) :]
    if random.random() < 0.95:
        _repair(image)
    return bytes(image[:max_bytes])


def _meta(image: bytearray) -> int:
    """Where inodes begin; nowhere odd, for one of ours."""
    start = int.from_bytes(image[_SUPER + 40 : _SUPER + 44], "little") * erofs.BLOCK
    return start if 0 < start < len(image) else 2 * erofs.BLOCK


def _set(image: bytearray, at: int, field: tuple[str, int], random: Random) -> None:
    form, offset = field
    size = struct.calcsize(form)
    if at + offset + size > len(image):
        return
    (old,) = struct.unpack_from(form, image, at + offset)
    near = old + random.choice((-512, -8, -1, 1, 8, 512))
    value = random.choice((random.choice(_VALUES), near, old ^ (1 << random.randrange(8 * size))))
    struct.pack_into(form, image, at + offset, value % (1 << (8 * size)))


def _set_record(image: bytearray, random: Random) -> None:
    """A field of a folder's record, in a block near the end, where folders lie."""
    blocks = max(1, len(image) // erofs.BLOCK)
    block = blocks - 1 - random.randrange(min(blocks, 6))
    place = random.choice((0, 0, 1, 2, random.randrange(20)))
    field = random.choice((("<Q", 0), ("<H", 8), ("<H", 8), ("<B", 10)))
    _set(image, block * erofs.BLOCK + place * erofs.DIRENT.size, field, random)


def _repair(image: bytearray) -> None:
    """Magic, block size, root and the number of blocks: what the first check asks for."""
    del image[len(image) // erofs.BLOCK * erofs.BLOCK :]
    if len(image) < _SUPER + erofs.SUPERBLOCK.size:
        return
    struct.pack_into("<I", image, _SUPER, erofs.MAGIC)
    struct.pack_into("<BBH", image, _SUPER + 12, erofs.BLOCK_BITS, 0, erofs.ROOT_NID)
    struct.pack_into("<I", image, _SUPER + 36, len(image) // erofs.BLOCK)
