"""Tar members out of a byte stream: bytes in, entries out, no I/O.

Feed the payload to `TarParser.feed` in pieces of any size. Bodies are passed over, never
kept, so memory does not grow with the layer; bytes after the end mark belong to the payload
and are passed over too. An unknown member type is a regular file, as in GNU tar.

Not here: what entries mean together (`clipfs.tree.merge`); sparse members, refused for now.
Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual for long names and
base-256 numbers.
"""

import struct
from typing import NamedTuple

from clipfs import errors
from clipfs.layer import pax
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import MAX_ENTRIES, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES
from clipfs.layer.names import normalised, shown

BLOCK = 512
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZERO_BLOCK = bytes(BLOCK)
_CHECKSUM = slice(148, 156)
_KINDS = {
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.CHARACTER,
    b"4": EntryKind.BLOCK,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.FIFO,
}
_META = frozenset((b"x", b"g", b"L", b"K", b"X"))


class _Meta(NamedTuple):
    """A PAX or GNU long-name header whose body is being gathered."""

    kind: bytes
    body_bytes: int


class TarParser:
    """One payload's parser. `entries` grows in archive order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._buffer = bytearray()
        self._offset = 0  # of the first byte of _buffer in the payload
        self._skip = 0  # bytes of body and padding still to pass over
        self._padding = 0  # bytes of padding among them
        self._meta: _Meta | None = None
        self._pax: dict[bytes, bytes] = {}
        self._global: dict[bytes, bytes] = {}
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._zero_blocks = 0
        self._ended = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take the payload's next piece; CorruptImage or UnsupportedImage names the member."""
        if self._ended:
            return
        if self._skip >= len(data) and not self._buffer:
            self._skip -= len(data)
            self._offset += len(data)
            return
        self._buffer += data
        self._advance()

    def close(self) -> None:
        """Call at the payload's end; CorruptImage if it ended inside a member.

        The end mark, and the last body's padding, may be missing: `umoci insert` leaves both
        out, and Go's reader, which is what most tools use, does not ask for them.
        """
        if self._skip > self._padding or self._meta or (self._buffer and not self._ended):
            raise errors.CorruptImage(f"tar: the stream ends early, at byte {self._offset}")

    def _advance(self) -> None:
        buffer, at, size = self._buffer, 0, len(self._buffer)
        while not self._ended:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                if self._skip:
                    break
            need = self._meta.body_bytes if self._meta else BLOCK
            if size - at < need:
                break
            block = bytes(buffer[at : at + need])
            at += need
            if self._meta:
                meta, self._meta = self._meta, None
                self._skip, self._padding = -need % BLOCK, 0
                self._take_meta(meta.kind, block)
            else:
                self._take_header(block, self._offset + at)
        self._offset += at
        del buffer[:at]
        if self._ended:
            buffer.clear()

    def _take_header(self, block: bytes, body_offset: int) -> None:
        if block == _ZERO_BLOCK:
            self._zero_blocks += 1
            self._ended = self._zero_blocks == 2
            return
        self._zero_blocks = 0
        _check_sum(block, body_offset - BLOCK)
        fields = _FIELDS.unpack(block)
        size, typeflag = _number(fields[4], "size"), fields[7]
        if typeflag in _META:
            if size > MAX_HEADER_BYTES:
                raise errors.CorruptImage(f"tar: a header record of {size} bytes")
            self._meta = _Meta(typeflag, size)
            return
        attributes = {**self._global, **self._pax} if self._global else self._pax
        self._pax = {}
        if b"size" in attributes:
            size = pax.number_of(b"size", attributes[b"size"])
        if size < 0 or size > MAX_PAYLOAD_BYTES:
            raise errors.CorruptImage(f"tar: a member of {size} bytes at byte {body_offset}")
        self._take_member(fields, attributes, size, body_offset)

    def _take_meta(self, kind: bytes, body: bytes) -> None:
        if kind == b"L":
            self._long_name = body.split(b"\0", 1)[0]
        elif kind == b"K":
            self._long_link = body.split(b"\0", 1)[0]
        elif kind == b"g":
            self._global.update(pax.records(body))
        else:
            self._pax.update(pax.records(body))

    def _take_member(
        self, fields: tuple[bytes, ...], attributes: dict[bytes, bytes], size: int, offset: int
    ) -> None:
        name, link = self._names(fields, attributes)
        kind = _kind(fields[7], name, attributes)
        body_bytes = size if kind == EntryKind.FILE else 0  # a link may state a size, without data
        self._padding = -body_bytes % BLOCK
        self._skip = body_bytes + self._padding
        if kind == EntryKind.CHARACTER and not any(map(_device, fields[12:14])):
            return  # 0:0 is overlayfs' whiteout, which means nothing here
        if len(self.entries) >= MAX_ENTRIES:
            raise errors.CorruptImage(f"tar: more than {MAX_ENTRIES} members")
        self.entries.append(_entry(name, link, kind, fields, attributes, size, offset))

    def _names(
        self, fields: tuple[bytes, ...], attributes: dict[bytes, bytes]
    ) -> tuple[bytes, bytes]:
        name, link = attributes.get(b"path"), attributes.get(b"linkpath")
        if name is None:
            name = self._long_name
        if name is None:
            name = fields[0].split(b"\0", 1)[0]
            prefix = fields[14].split(b"\0", 1)[0]
            if prefix and fields[9].startswith(b"ustar\0"):  # old GNU keeps times there
                name = prefix + b"/" + name
        if link is None:
            link = self._long_link
        if link is None:
            link = fields[8].split(b"\0", 1)[0]
        self._long_name = self._long_link = None
        return name, link


def _entry(
    name: bytes,
    link: bytes,
    kind: EntryKind,
    fields: tuple[bytes, ...],
    attributes: dict[bytes, bytes],
    size: int,
    offset: int,
) -> Entry:
    if not name:
        raise errors.CorruptImage(f"tar: a member without a name at byte {offset - BLOCK}")
    seconds, ns = (
        pax.time_of(attributes[b"mtime"])
        if b"mtime" in attributes
        else (_number(fields[5], "mtime"), 0)
    )
    target = b""
    if kind == EntryKind.HARDLINK:
        target = normalised(link)
    elif kind == EntryKind.SYMLINK:
        if not link or len(link) > 4095 or b"\0" in link:
            raise errors.CorruptImage(f"tar: {shown(name)}: not a symlink's target: {shown(link)}")
        target = link
    is_device = kind in (EntryKind.CHARACTER, EntryKind.BLOCK)
    return Entry(
        path=normalised(name),
        kind=kind,
        mode=_number(fields[1], "mode") & 0o7777,
        uid=_owner(b"uid", fields[2], attributes),
        gid=_owner(b"gid", fields[3], attributes),
        mtime_s=seconds,
        mtime_ns=ns,
        size=size if kind == EntryKind.FILE else 0,
        payload_offset=offset if kind == EntryKind.FILE and size else 0,
        target=target,
        rdev_major=_device(fields[12]) if is_device else 0,
        rdev_minor=_device(fields[13]) if is_device else 0,
        xattrs=pax.xattrs_of(attributes) if len(attributes) > 1 or _has_xattr(attributes) else (),
    )


def _has_xattr(attributes: dict[bytes, bytes]) -> bool:
    return any(b".xattr." in key for key in attributes)


def _kind(typeflag: bytes, name: bytes, attributes: dict[bytes, bytes]) -> EntryKind:
    if typeflag == b"S" or any(key.startswith(b"GNU.sparse.") for key in attributes):
        raise errors.UnsupportedImage(
            f"tar: {shown(name)} is a sparse member, which this version does not read; "
            "build the layer without --sparse"
        )
    kind = _KINDS.get(typeflag, EntryKind.FILE)
    if kind == EntryKind.FILE and typeflag in (b"0", b"\0") and name.endswith(b"/"):
        return EntryKind.DIRECTORY  # as archives older than POSIX say it
    return kind


def _check_sum(block: bytes, offset: int) -> None:
    stated = _number(block[_CHECKSUM], "checksum")
    rest = sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20
    if stated == rest:
        return
    signed = sum(struct.unpack("148b8x356b", block)) + 8 * 0x20  # historic tars
    if stated != signed:
        raise errors.CorruptImage(f"tar: the header at byte {offset} has a wrong checksum")


def _number(field: bytes, what: str) -> int:
    """An octal or base-256 number; blank is 0."""
    if field[0] & 0x80:  # base-256, two's complement without its highest bit
        value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (len(field) * 8 - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise errors.CorruptImage(f"tar: {what} is out of range")
        return value
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    try:
        if not text.isalnum():  # int() would take signs, spaces and underscores
            raise ValueError
        return int(text, 8)
    except ValueError as error:
        raise errors.CorruptImage(f"tar: {what} {field[:20]!r} is not a number") from error


def _owner(key: bytes, field: bytes, attributes: dict[bytes, bytes]) -> int:
    value = pax.number_of(key, attributes[key]) if key in attributes else _number(field, "owner")
    if not 0 <= value < 1 << 32:
        raise errors.CorruptImage(f"tar: {key.decode()} {value} is not a 32-bit id")
    return value


def _device(field: bytes) -> int:
    value = _number(field, "device number")
    if not 0 <= value < 1 << 20:
        raise errors.CorruptImage(f"tar: device number {value} is out of range")
    return value
