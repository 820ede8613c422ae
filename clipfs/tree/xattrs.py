"""The area of extended attributes behind an inode, written and read; four-byte units.

Not here: which xattrs a layer may have (`clipfs.layer.archive.pax`); the format's numbers
(`clipfs.tree.erofs`).
"""

from collections.abc import Sequence

from clipfs import errors
from clipfs.layer.archive.names import shown
from clipfs.tree import erofs

Xattrs = Sequence[tuple[bytes, bytes]]
"""Full name and value of each."""


def area_bytes(xattrs: Xattrs) -> int:
    """How long `packed` of the same xattrs is."""
    if not xattrs:
        return 0
    return erofs.XATTR_HEADER_BYTES + sum(
        erofs.round_up(erofs.XATTR_ENTRY.size + len(name) - len(_prefix(name)) + len(value), 4)
        for name, value in xattrs
    )


def packed(xattrs: Xattrs) -> bytes:
    """CorruptImage if one has a name that the format cannot say."""
    if not xattrs:
        return b""
    area = bytearray(erofs.XATTR_HEADER_BYTES)
    for name, value in xattrs:
        prefix = _prefix(name)
        suffix = name[len(prefix) :]
        area += erofs.XATTR_ENTRY.pack(len(suffix), erofs.XATTR_PREFIXES[prefix], len(value))
        area += suffix + value
        area += bytes(-len(area) % 4)
    return bytes(area)


def unpacked(area: bytes) -> dict[bytes, bytes]:
    """Full name -> value; CorruptImage if area is malformed."""
    found: dict[bytes, bytes] = {}
    at = erofs.XATTR_HEADER_BYTES
    while at + erofs.XATTR_ENTRY.size <= len(area):
        name_bytes, prefix, value_bytes = erofs.XATTR_ENTRY.unpack_from(area, at)
        at += erofs.XATTR_ENTRY.size
        end = at + name_bytes + value_bytes
        if prefix not in erofs.XATTR_PREFIX_OF or end > len(area):
            raise errors.CorruptImage("image index: malformed xattrs")
        name = erofs.XATTR_PREFIX_OF[prefix] + area[at : at + name_bytes]
        found[name] = area[at + name_bytes : end]
        at = erofs.round_up(end, 4)
    return found


def _prefix(name: bytes) -> bytes:
    for prefix in erofs.XATTR_PREFIXES:
        if name.startswith(prefix):
            return prefix
    raise errors.CorruptImage(f"the xattr {shown(name)} has no place in an image")
