"""Tar archives by hand, block by block: what no archiver would write, or writes too rarely.

Shares no code with the product, so that end-to-end tests can use it.
"""

import struct
from collections.abc import Iterator, Mapping

BLOCK = 512
END = bytes(2 * BLOCK)
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_NAME_BYTES = 100
_CHECKSUM = slice(148, 156)
_WIDTHS = {"mode": 8, "uid": 8, "gid": 8, "size": 12, "mtime": 12, "devmajor": 8, "devminor": 8}
_DEFAULTS: dict[str, int] = {"mode": 0o644, "mtime": 1_700_000_000}


def member(
    name: bytes = b"f",
    body: bytes = b"",
    *,
    typeflag: bytes = b"0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    signed_sum: bool = False,
    **numbers: int | bytes,
) -> bytes:
    """One member with its padding; a number may be given as the bytes of its field."""
    numbers = {**_DEFAULTS, "size": len(body), **numbers}
    fields = {key: _field(numbers.get(key, 0), width) for key, width in _WIDTHS.items()}

    def block(checksum: bytes) -> bytes:
        return _FIELDS.pack(
            name,
            fields["mode"],
            fields["uid"],
            fields["gid"],
            fields["size"],
            fields["mtime"],
            checksum,
            typeflag,
            link,
            magic,
            b"user",
            b"group",
            fields["devmajor"],
            fields["devminor"],
            prefix,
        )

    blank = block(b" " * 8)
    total = sum(blank) if not signed_sum else sum(struct.unpack("512b", blank))
    return block(b"%06o\0 " % total) + padded(body)


def records(values: Mapping[bytes, bytes], *, typeflag: bytes = b"x") -> bytes:
    """A PAX header; typeflag g makes it a global one."""
    return member(b"pax", b"".join(map(record, values, values.values())), typeflag=typeflag)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def long_name(name: bytes, *, typeflag: bytes = b"L") -> bytes:
    """A GNU long name (K: link) for the next member."""
    return member(b"././@LongLink", name + b"\0", typeflag=typeflag)


def padded(body: bytes) -> bytes:
    return body + bytes(-len(body) % BLOCK)


def with_checksum(head: bytes | bytearray) -> bytes:
    """A header block whose fields were changed, right again."""
    block = bytearray(head)
    block[_CHECKSUM] = b" " * 8
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(value: int, width: int) -> bytes:
    """As GNU tar writes what octal digits do not hold."""
    data = bytearray((value % (1 << (8 * width))).to_bytes(width, "big"))
    data[0] |= 0x80
    return bytes(data)


def _field(value: int | bytes, width: int) -> bytes:
    return value if isinstance(value, bytes) else b"%0*o\0" % (width - 1, value)


def one_folder(count: int) -> Iterator[bytes]:
    """An archive of count empty files in one folder, in pieces; made fast for millions."""
    yield member(b"many/", typeflag=b"5", mode=0o755)
    block = bytearray(member(b"many/"))
    block[_CHECKSUM] = b" " * 8
    rest = sum(block) - sum(block[:_NAME_BYTES])
    for number in range(count):
        name = many_name(number)
        block[: len(name)] = name
        block[_CHECKSUM] = b"%06o\0 " % (rest + sum(name))
        yield bytes(block)
    yield END


def many_name(number: int) -> bytes:
    """What `one_folder` calls its number-th file."""
    return b"many/entry-%07d" % number
