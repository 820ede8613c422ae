"""Tar members out of a byte stream: bytes in, entries out, no I/O.

Feed the payload to `TarParser.feed` in pieces of any size. Bodies are passed over, never
kept, so memory does not grow with the layer; bytes after the end mark belong to the payload
and are passed over too. An unknown member type is a regular file, as in GNU tar.

Not here: what entries mean together (`clipfs.tree.merge`); sparse members, refused for now.
Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual for long names.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from clipfs import errors
from clipfs.layer import header, pax
from clipfs.layer.header import BLOCK, Header
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import (
    MAX_ENTRIES,
    MAX_GLOBAL_HEADER_BYTES,
    MAX_HEADER_BYTES,
    MAX_PATH_BYTES,
    MAX_PAYLOAD_BYTES,
)
from clipfs.layer.names import normalised, shown

_ZERO_BLOCK = bytes(BLOCK)
_KINDS = {
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.CHARACTER,
    b"4": EntryKind.BLOCK,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.FIFO,
}
_RECORDS = frozenset((b"x", b"g", b"L", b"K", b"X"))
_DUMPS = frozenset((b"D", b"M", b"N", b"V"))

Attributes = Mapping[bytes, bytes]
"""PAX records that hold for one member."""


class _Record(NamedTuple):
    """A PAX or GNU long-name record whose body is being gathered."""

    kind: bytes
    body_bytes: int


class TarParser:
    """One payload's parser. `entries` grows in archive order, unless `on_entry` gets them."""

    def __init__(self, on_entry: Callable[[Entry], None] | None = None) -> None:
        self.entries: list[Entry] = []
        self._on_entry = on_entry or self.entries.append
        self._taken = 0
        self._offset = 0  # payload bytes fed before the piece in hand
        self._skip = 0  # bytes of body and padding still to pass over
        self._padding = 0  # bytes of padding among them
        self._held = bytearray()  # of a block or a record that is not whole yet
        self._record: _Record | None = None
        self._record_bytes = 0  # of all records of the next member
        self._global_bytes = 0
        self._pax: dict[bytes, bytes] = {}
        self._global: dict[bytes, bytes] = {}
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._zero_blocks = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the payload's next piece; CorruptImage or UnsupportedImage names the member."""
        at, size = 0, len(data)
        while at < size and not self._ended:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            want = self._record.body_bytes if self._record else BLOCK
            part = data[at : at + want - len(self._held)]
            at += len(part)
            if self._held or len(part) < want:
                self._held += part
                if len(self._held) < want:
                    break
                part = bytes(self._held)
                self._held.clear()
            if self._record:
                self._take_record(self._record.kind, part)
            else:
                self._take_header(part, self._offset + at)
        self._offset += size

    def close(self) -> None:
        """Call at the payload's end; CorruptImage if it ended inside a member.

        The end mark, and the last body's padding, may be missing: `umoci insert` leaves both
        out, and Go's reader, which is what most tools use, does not ask for them.
        """
        inside = self._held or self._record or self._record_bytes or self._skip > self._padding
        if inside and not self._ended:
            raise errors.CorruptImage(f"tar: the stream ends early, at byte {self._offset}")

    def _take_header(self, block: bytes, body_offset: int) -> None:
        if block == _ZERO_BLOCK:
            self._zero_blocks += 1
            self._ended = self._zero_blocks == 2
            return
        self._zero_blocks = 0
        head = header.parse(block, body_offset - BLOCK)
        size = header.number(head.size, "size")
        if head.typeflag in _RECORDS:
            return self._expect_record(head.typeflag, size)
        attributes = pax.merged(self._global, self._pax)
        self._pax, self._record_bytes = {}, 0
        if b"size" in attributes:
            size = pax.number_of(b"size", attributes[b"size"])
        if not 0 <= size <= MAX_PAYLOAD_BYTES:
            raise errors.CorruptImage(f"tar: a member of {size} bytes at byte {body_offset}")
        self._take_member(head, attributes, size, body_offset)

    def _expect_record(self, kind: bytes, size: int) -> None:
        if size < 0:
            raise errors.CorruptImage(f"tar: a header record of {size} bytes")
        if kind == b"g":
            self._global_bytes += size
        else:
            self._record_bytes += BLOCK + size
        if self._record_bytes > MAX_HEADER_BYTES or self._global_bytes > MAX_GLOBAL_HEADER_BYTES:
            raise errors.CorruptImage(
                f"tar: over {MAX_HEADER_BYTES} bytes of header records for one member, or over "
                f"{MAX_GLOBAL_HEADER_BYTES} for all"
            )
        if size:
            self._record = _Record(kind, size)
        else:
            self._take_record(kind, b"")

    def _take_record(self, kind: bytes, body: bytes) -> None:
        self._record = None
        self._skip, self._padding = -len(body) % BLOCK, 0
        if kind == b"L":
            self._long_name = header.text(body)
        elif kind == b"K":
            self._long_link = header.text(body)
        elif kind == b"g":
            self._global.update(pax.records(body))
        else:
            self._pax.update(pax.records(body))

    def _take_member(self, head: Header, attributes: Attributes, size: int, offset: int) -> None:
        name = _first(attributes.get(b"path"), self._long_name, head.full_name())
        link = _first(attributes.get(b"linkpath"), self._long_link, header.text(head.linkname))
        self._long_name = self._long_link = None
        kind = _kind(head.typeflag, name, attributes)
        body_bytes = size if kind == EntryKind.FILE else 0  # a link may state a size, without data
        self._padding = -body_bytes % BLOCK
        self._skip = body_bytes + self._padding
        if kind == EntryKind.CHARACTER and head.device() == (0, 0):
            return  # overlayfs' whiteout, which means nothing here
        if self._taken >= MAX_ENTRIES:
            raise errors.CorruptImage(f"tar: more than {MAX_ENTRIES} members")
        if not name:
            raise errors.CorruptImage(f"tar: a member without a name at byte {offset - BLOCK}")
        self._taken += 1
        self._on_entry(_entry(head, attributes, kind, name, link, body_bytes, offset))


def _first(pax_name: bytes | None, long_name: bytes | None, short_name: bytes) -> bytes:
    if pax_name is not None:
        return pax_name
    return short_name if long_name is None else long_name


def _kind(typeflag: bytes, name: bytes, attributes: Attributes) -> EntryKind:
    if typeflag == b"S" or any(key.startswith(b"GNU.sparse.") for key in attributes):
        raise errors.UnsupportedImage(
            f"tar: {shown(name)} is a sparse member, which this version does not read; "
            "build the layer without --sparse"
        )
    if typeflag in _DUMPS:
        raise errors.UnsupportedImage(
            f"tar: {shown(name)} is of kind {typeflag.decode()}, which GNU tar makes of "
            "incremental, labelled or multi-volume dumps; make the layer anew, without those"
        )
    kind = _KINDS.get(typeflag, EntryKind.FILE)
    if kind == EntryKind.FILE and typeflag in (b"0", b"\0") and name.endswith(b"/"):
        return EntryKind.DIRECTORY  # as archives older than POSIX say it
    return kind


def _entry(
    head: Header,
    attributes: Attributes,
    kind: EntryKind,
    name: bytes,
    link: bytes,
    body_bytes: int,
    offset: int,
) -> Entry:
    is_device = kind in (EntryKind.CHARACTER, EntryKind.BLOCK)
    major, minor = head.device() if is_device else (0, 0)
    seconds, ns = header.number(head.mtime, "mtime"), 0
    if b"mtime" in attributes:
        seconds, ns = pax.time_of(attributes[b"mtime"])
    return Entry(
        path=normalised(name),
        kind=kind,
        mode=header.number(head.mode, "mode") & 0o7777,
        uid=_owner(b"uid", head.uid, attributes),
        gid=_owner(b"gid", head.gid, attributes),
        mtime_s=seconds,
        mtime_ns=ns,
        size=body_bytes,
        payload_offset=offset if body_bytes else 0,
        target=_target(kind, name, link),
        rdev_major=major,
        rdev_minor=minor,
        xattrs=pax.xattrs_of(attributes) if attributes else (),
    )


def _target(kind: EntryKind, name: bytes, link: bytes) -> bytes:
    if kind == EntryKind.HARDLINK:
        return normalised(link)
    if kind != EntryKind.SYMLINK:
        return b""
    if not link or len(link) > MAX_PATH_BYTES or b"\0" in link:
        raise errors.CorruptImage(f"tar: {shown(name)}: not a symlink's target: {shown(link)}")
    return link


def _owner(key: bytes, field: bytes, attributes: Attributes) -> int:
    stated = attributes.get(key)
    value = header.number(field, "owner") if stated is None else pax.number_of(key, stated)
    if not 0 <= value < 1 << 32:
        raise errors.CorruptImage(f"tar: {key.decode()} {value} is not a 32-bit id")
    return value
