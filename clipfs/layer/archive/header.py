"""One tar header block: 512 bytes in, its raw fields and their numbers out.

Not here: records that go before a header (`pax`); the stream (`tar`).
Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual for base-256 numbers.
"""

import functools
import struct
import zlib
from typing import NamedTuple

from clipfs import errors

BLOCK = 512
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_SIGNED = struct.Struct("148b8x356b")


class Header(NamedTuple):
    """The fields as they stand in the block; names end at their first NUL."""

    name: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    typeflag: bytes
    linkname: bytes
    magic: bytes
    uname: bytes
    gname: bytes
    devmajor: bytes
    devminor: bytes
    prefix: bytes

    def full_name(self) -> bytes:
        """prefix and name; only ustar has a prefix, old GNU keeps times there."""
        name, prefix = text(self.name), text(self.prefix)
        return prefix + b"/" + name if prefix and self.magic.startswith(b"ustar\0") else name

    def device(self) -> tuple[int, int]:
        """Major and minor; CorruptImage beyond the 12 and 20 bits of Linux' dev_t."""
        major, minor = number(self.devmajor, "device"), number(self.devminor, "device")
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise errors.CorruptImage(f"tar: the device number {major}:{minor} is out of range")
        return major, minor


def parse(block: bytes, offset: int) -> Header:
    """The header in block, which stands at offset; CorruptImage if its checksum is wrong."""
    header = Header._make(_FIELDS.unpack(block))
    stated, blanks = number(header.checksum, "checksum"), 8 * 0x20
    if stated != _sum(block) - sum(header.checksum) + blanks:
        signed = sum(_SIGNED.unpack(block)) + blanks  # as historic tars count
        if stated != signed:
            raise errors.CorruptImage(f"tar: the header at byte {offset} has a wrong checksum")
    return header


def _sum(block: bytes) -> int:
    """The sum of a block's bytes: 7 times faster than sum() by Adler-32, whose low half is
    one more than the sum while that is below 65,521, as it is for 256 bytes."""
    low, high = zlib.adler32(block[:256]), zlib.adler32(block[256:])
    return (low & 0xFFFF) + (high & 0xFFFF) - 2


def text(field: bytes) -> bytes:
    """What stands before the first NUL."""
    return field.split(b"\0", 1)[0]


@functools.lru_cache(maxsize=1024)  # most members have the same owner, mode and devices
def number(field: bytes, what: str) -> int:
    """An octal or base-256 number that fits 64 bits with sign; blank is 0."""
    if field[0] & 0x80:  # base-256: two's complement, whose highest bit is the mark
        bits = len(field) * 8 - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        if field[0] & 0x40:
            value -= 1 << bits
        if not -(1 << 63) <= value < 1 << 63:
            raise errors.CorruptImage(f"tar: {what} is out of range")
        return value
    digits = text(field).strip(b" ")
    try:
        if digits and not digits.isdigit():  # int() would take signs, underscores and "0o"
            raise ValueError
        return int(digits or b"0", 8)
    except ValueError as error:
        raise errors.CorruptImage(f"tar: {what} {field!r} is not a number") from error
