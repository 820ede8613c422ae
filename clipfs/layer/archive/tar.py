"""Tar members out of a byte stream: bytes in, entries out, no I/O.

Feed the payload to `TarParser.feed` in pieces of any size. Bodies are passed over, never
kept, so memory does not grow with the layer; bytes after the end mark belong to the payload
and are passed over too.

Not here: what a member's fields say (`clipfs.layer.archive.member`), sparse ones
(`clipfs.layer.archive.sparse_members`), what entries mean together (`clipfs.tree.merge`).
Source: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual for long names.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from clipfs import errors
from clipfs.layer.archive import header, pax, sparse_formats
from clipfs.layer.archive.header import BLOCK, Header
from clipfs.layer.archive.member import Attributes, entry_of, first_of, kind_of
from clipfs.layer.archive.names import naming_member
from clipfs.layer.archive.sparse_members import SparseMembers, Stored
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import (
    MAX_ENTRIES,
    MAX_GLOBAL_HEADER_BYTES,
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
)
from clipfs.layer.sparse import SparseMap

_ZERO_BLOCK = bytes(BLOCK)
_RECORDS = frozenset((b"x", b"g", b"L", b"K", b"X"))


class _Record(NamedTuple):
    """A PAX or GNU long-name record whose body is being gathered."""

    kind: bytes
    body_bytes: int


class TarParser:
    """One payload's parser: on_entry gets its entries, in archive order."""

    def __init__(self, on_entry: Callable[[Entry], None]) -> None:
        self._on_entry = on_entry
        self._sparse = SparseMembers()
        self._taken = 0
        self._offset = 0  # payload bytes fed before the piece in hand
        self._skip = 0  # bytes of body and padding still to pass over
        self._padding = 0  # bytes of padding among them
        self._held = bytearray()  # of a block or a record that is not whole yet
        self._record: _Record | None = None
        self._record_bytes = 0  # of all records of the next member
        self._global_bytes = 0
        self._pax: list[pax.Record] = []
        self._global: dict[bytes, bytes] = {}
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._zero_blocks = 0
        self._ended = False

    @property
    def sparse(self) -> Sequence[SparseMap]:
        """The maps of the sparse members so far that hold data, in archive order."""
        return self._sparse.maps

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
            elif self._sparse.wants_block:
                self._take_stored(self._sparse.take(part, self._offset + at))
            else:
                self._take_header(part, self._offset + at)
        self._offset += size

    def close(self) -> None:
        """Call at the payload's end; CorruptImage if it ended inside a member.

        The end mark, and the last body's padding, may be missing: `umoci insert` leaves both
        out, and Go's reader, which is what most tools use, does not ask for them.
        """
        is_begun = self._held or self._record or self._record_bytes
        is_begun = is_begun or self._sparse.wants_block
        if (is_begun or self._skip > self._padding) and not self._ended:
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
        own, self._pax, self._record_bytes = self._pax, [], 0
        attributes = pax.merged(self._global, dict(own))
        if b"size" in attributes:
            size = pax.number_of(b"size", attributes[b"size"])
        if not 0 <= size <= MAX_PAYLOAD_BYTES:
            raise errors.CorruptImage(f"tar: a member of {size} bytes at byte {body_offset}")
        name = first_of(
            attributes.get(sparse_formats.NAME, attributes.get(b"path")),
            self._long_name,
            head.full_name(),
        )
        link = first_of(attributes.get(b"linkpath"), self._long_link, header.text(head.linkname))
        self._long_name = self._long_link = None
        reader = None
        if attributes or head.typeflag == b"S":
            with naming_member(name):
                repeated = [one for one in own if sparse_formats.is_repeated(one)]
                reader = sparse_formats.reader_of(head, block, attributes, repeated)
        entry = self._entry_of(head, attributes, name, link, size, body_offset)
        if reader is not None:
            self._skip = self._padding = 0  # what follows is its map, or is told by it
            self._take_stored(self._sparse.begin(entry, reader, size, body_offset))
        elif entry is not None:
            self._on_entry(entry)

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
            if any(key.startswith(sparse_formats.PREFIX) for key in self._global):
                raise errors.UnsupportedImage("tar: a sparse map for all members")
        else:
            self._pax += pax.records(body)

    def _entry_of(
        self,
        head: Header,
        attributes: Attributes,
        name: bytes,
        link: bytes,
        size: int,
        offset: int,
    ) -> Entry | None:
        """The member, whose body is passed over from now on; None if it means nothing here."""
        kind = kind_of(head.typeflag, name)
        body_bytes = size if kind == EntryKind.FILE else 0  # a link may state a size, without data
        self._pass_over(body_bytes)
        if kind == EntryKind.CHARACTER and head.device() == (0, 0):
            return None  # overlayfs' whiteout
        if self._taken >= MAX_ENTRIES:
            raise errors.CorruptImage(f"tar: more than {MAX_ENTRIES} members")
        if not name:
            raise errors.CorruptImage(f"tar: a member without a name at byte {offset - BLOCK}")
        self._taken += 1
        return entry_of(head, attributes, kind, name, link, body_bytes, offset)

    def _take_stored(self, stored: Stored | None) -> None:
        """A sparse member whose map is whole: its data is passed over; None: it is not."""
        if stored is not None:
            self._pass_over(stored.packed_bytes)
            self._on_entry(stored.entry)

    def _pass_over(self, body_bytes: int) -> None:
        self._padding = -body_bytes % BLOCK
        self._skip = body_bytes + self._padding
