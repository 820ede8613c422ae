"""The layer index: what one pass over a payload yields, and its file format.

Entries stand in archive order with names as `clipfs.layer.tar` normalised them; whiteouts
are entries like any other, judged by `clipfs.tree.merge`. The encoding is deterministic: the
same payload gives the same bytes on every node. Derived data, so it is sealed (`seal.py`).

Source: BLAKE3 for chunk digests; OCI image specification, "Image Layer Filesystem Changeset".
"""

import enum
import struct
from collections.abc import Iterable

import msgspec

from clipfs import errors
from clipfs.layer.limits import MAX_ENTRY_BYTES

CHUNK_BYTES = 128 * 1024
"""Bytes of payload that are fetched, verified and marked present together."""

CHUNK_DIGEST_BYTES = 32
VERSION = 1


class EntryKind(enum.IntEnum):
    """What a tar member is; values are part of the format."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    HARDLINK = 4
    CHARACTER = 5
    BLOCK = 6
    FIFO = 7


class Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One member of a layer.

    path            raw bytes, "/"-separated, relative, without "." or ".."; b"" is the root
    mode            permission bits, 07777
    mtime_s         seconds since the epoch, may be negative; mtime_ns in [0, 1e9)
    size            bytes of a file's content; 0 for what is not a file
    payload_offset  where that content starts in the payload; a multiple of 512
    target          a symlink's target as it stands; a hard link's path, normalised like path
    xattrs          (full name, value) sorted by name
    """

    path: bytes
    kind: EntryKind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    mtime_ns: int = 0
    size: int = 0
    payload_offset: int = 0
    target: bytes = b""
    rdev_major: int = 0
    rdev_minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


class LayerIndex(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One layer's payload: how long, what every chunk must be, what it holds.

    chunk_digests  BLAKE3 of each chunk, 32 bytes each, the last chunk may be short
    raw_entries    encoded entries; `entries()` decodes them, a reader of bytes never needs to
    """

    version: int
    payload_bytes: int
    diff_id: str
    chunk_digests: bytes
    raw_entries: msgspec.Raw

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
        return msgspec.msgpack.decode(self.raw_entries, type=list[Entry])


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
        """The same bytes as of a list of the entries."""
        return msgspec.Raw(_array_head(self._count) + self._packed)


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
    entries: Iterable[Entry] | PackedEntries,
) -> LayerIndex:
    """An index of this version; entries in archive order."""
    packed = entries if isinstance(entries, PackedEntries) else PackedEntries(entries)
    return LayerIndex(
        version=VERSION,
        payload_bytes=payload_bytes,
        diff_id=diff_id,
        chunk_digests=chunk_digests,
        raw_entries=packed.encoded(),
    )


def encode(index: LayerIndex) -> bytes:
    """The content of a layer index, unsealed; the same bytes for the same index."""
    return msgspec.msgpack.encode(index)


def decode(content: bytes) -> LayerIndex | None:
    """The index that content holds; None if it is of another version or malformed."""
    try:
        index = msgspec.msgpack.decode(content, type=LayerIndex)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    chunks = -(-index.payload_bytes // CHUNK_BYTES)
    whole = len(index.chunk_digests) == chunks * CHUNK_DIGEST_BYTES and index.payload_bytes >= 0
    return index if index.version == VERSION and whole else None
