"""The layer index: what one pass over a payload yields, and its file format.

Entries stand in archive order with names as `clipfs.layer.archive.tar` normalised them; whiteouts
are entries like any other, judged by `clipfs.tree.merge`. The encoding is deterministic: the
same payload gives the same bytes on every node. Derived data, so it is sealed (`seal.py`).

Source: BLAKE3 for chunk digests; OCI image specification, "Image Layer Filesystem Changeset".
"""

import enum
import struct
from collections.abc import Iterable
from typing import Annotated

import msgspec

from clipfs import errors
from clipfs.layer.limits import (
    MAX_ENTRY_BYTES,
    MAX_PATH_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SPARSE_BYTES,
    MAX_XATTR_BYTES,
)
from clipfs.layer.sparse import SparseMap, are_sound

CHUNK_BYTES = 128 * 1024
"""Bytes of payload that are fetched, verified and marked present together."""

CHUNK_DIGEST_BYTES = 32
VERSION = 1


class EntryKind(enum.IntEnum):
    """What a tar member is; values are part of the format.

    SPARSE is a file with holes: the `SparseMap` with the entry's payload_offset says where they
    are; one with payload_offset 0 is a hole from end to end. A kind of its own, so that a release
    that does not know it refuses the index, rather than show other bytes.
    """

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    HARDLINK = 4
    CHARACTER = 5
    BLOCK = 6
    FIFO = 7
    SPARSE = 8


FILE, DIRECTORY, SYMLINK, HARDLINK, *_ = EntryKind
"""Members of an enumeration are slow to reach, and a merge asks for each entry's kind."""


Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Seconds = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, lt=1_000_000_000)]
FileBytes = Annotated[int, msgspec.Meta(ge=0, le=MAX_SPARSE_BYTES)]
PayloadOffset = Annotated[int, msgspec.Meta(ge=0, le=MAX_PAYLOAD_BYTES)]
Path = Annotated[bytes, msgspec.Meta(max_length=MAX_PATH_BYTES)]
XattrName = Annotated[bytes, msgspec.Meta(max_length=255)]
XattrValue = Annotated[bytes, msgspec.Meta(max_length=MAX_XATTR_BYTES)]


class Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One member of a layer.

    path            raw bytes, "/"-separated, relative, without "." or ".."; b"" is the root
    mode            permission bits, 07777
    mtime_s         seconds since the epoch, may be negative; mtime_ns in [0, 1e9)
    size            bytes of a file's content, holes included; 0 for what is not a file
    payload_offset  where that content starts in the payload; a multiple of 512
    target          a symlink's target as it stands; a hard link's path, normalised like path
    xattrs          (full name, value) sorted by name
    """

    path: Path
    kind: EntryKind
    mode: Mode
    uid: Id = 0
    gid: Id = 0
    mtime_s: Seconds = 0
    mtime_ns: Nanoseconds = 0
    size: FileBytes = 0
    payload_offset: PayloadOffset = 0
    target: Path = b""
    rdev_major: Id = 0
    rdev_minor: Id = 0
    xattrs: tuple[tuple[XattrName, XattrValue], ...] = ()


class LayerIndex(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One layer's payload: how long, what every chunk must be, what it holds.

    chunk_digests  BLAKE3 of each chunk, 32 bytes each, the last chunk may be short
    raw_entries    encoded entries; `entries()` decodes them, a reader of bytes never needs to
    sparse         maps of the sparse members that hold any data, in archive order; apart from the
                   entries, since a reader of bytes does need them
    """

    version: int
    payload_bytes: int
    diff_id: str
    chunk_digests: bytes
    raw_entries: msgspec.Raw
    sparse: tuple[SparseMap, ...] = ()

    @property
    def chunk_count(self) -> int:
        return len(self.chunk_digests) // CHUNK_DIGEST_BYTES

    @property
    def entry_count(self) -> int:
        """How many entries there are, whiteouts and links included, without decoding them."""
        return _array_count(bytes(memoryview(self.raw_entries)[:_HEAD_BYTES]))

    def chunk_digest(self, chunk: int) -> bytes:
        start = chunk * CHUNK_DIGEST_BYTES
        return self.chunk_digests[start : start + CHUNK_DIGEST_BYTES]

    def entries(self) -> list[Entry]:
        """CorruptImage if they are none: whoever signed the index may have been wrong."""
        try:
            return msgspec.msgpack.decode(self.raw_entries, type=list[Entry])
        except (msgspec.DecodeError, RecursionError) as error:
            raise errors.CorruptImage(f"layer index: malformed entries: {error}") from error


class PackedEntries:
    """Entries as the index will hold them, in a fifth of the memory that the objects take."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._packed = bytearray()
        self._count = 0
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """CorruptImage once they are more than `MAX_ENTRY_BYTES`."""
        self._packed += self._encode(entry)
        self._count += 1
        if len(self._packed) > MAX_ENTRY_BYTES:
            raise errors.CorruptImage(
                f"tar: the names, links and xattrs of {self._count} members take over "
                f"{MAX_ENTRY_BYTES >> 20} MiB; spread them over more layers"
            )

    def encoded(self) -> msgspec.Raw:
        """The same bytes as of a list of the entries, without a copy: nothing can be appended."""
        self._packed[:0] = _array_head(self._count)
        return msgspec.Raw(self._packed)


def _array_head(count: int) -> bytes:
    """Source: MessagePack specification, "array format family"."""
    if count < 16:
        return bytes((0x90 | count,))
    return struct.pack(">BH", 0xDC, count) if count < 1 << 16 else struct.pack(">BI", 0xDD, count)


_HEAD_BYTES = 5


def _array_count(head: bytes) -> int:
    """What `_array_head` gave; of other people's bytes some number."""
    if head[:1] in (b"\xdc", b"\xdd"):
        return int.from_bytes(head[1 : 3 if head[0] == 0xDC else _HEAD_BYTES], "big")
    return head[0] & 0x0F


def make_index(
    *,
    payload_bytes: int,
    diff_id: str,
    chunk_digests: bytes,
    entries: PackedEntries,
    sparse: Iterable[SparseMap] = (),
) -> LayerIndex:
    """An index of this version; entries in archive order."""
    return LayerIndex(
        version=VERSION,
        payload_bytes=payload_bytes,
        diff_id=diff_id,
        chunk_digests=chunk_digests,
        raw_entries=entries.encoded(),
        sparse=tuple(sparse),
    )


def encode(index: LayerIndex) -> bytes:
    """The content of a layer index, unsealed; the same bytes for the same index.

    Without sparse members it is as it was before there were any.
    """
    return b"".join(encoded_parts(index))


def encoded_parts(index: LayerIndex) -> list[bytes | memoryview]:
    """What `encode` gives, in parts, so that the entries of a large layer are not copied."""
    fields = msgspec.structs.astuple(index)
    fields = fields if index.sparse else fields[:-1]
    return [
        _array_head(len(fields)),
        *(
            memoryview(field) if isinstance(field, msgspec.Raw) else msgspec.msgpack.encode(field)
            for field in fields
        ),
    ]


def decode(content: bytes) -> LayerIndex | None:
    """The index that content holds; None if it is of another version or malformed."""
    try:
        index = msgspec.msgpack.decode(content, type=LayerIndex)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    chunks = -(-index.payload_bytes // CHUNK_BYTES)
    whole = len(index.chunk_digests) == chunks * CHUNK_DIGEST_BYTES and index.payload_bytes >= 0
    sound = whole and are_sound(index.sparse, index.payload_bytes)
    return index if index.version == VERSION and sound else None
