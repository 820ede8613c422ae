"""Decompression told by magic bytes, not by media type: gzip, zstd, or plain.

`inflated` pulls blob bytes and yields payload in pieces of at most PIECE_BYTES, so a bomb
cannot allocate. Several gzip members, zstd frames and skippable frames are one payload.

Source: RFC 1952 (gzip), RFC 8878 (zstd).
"""

from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib

from clipfs import errors
from clipfs.layer import zstd_frames
from clipfs.layer.archive.header import BLOCK
from clipfs.layer.limits import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RATIO,
    MAX_ZSTD_WINDOW_BYTES,
    RATIO_FREE_BYTES,
)
from clipfs.layer.unread_codecs import refuse_unread

PIECE_BYTES = 1 << 20
READ_BYTES = 1 << 20
FIRST_FEED_BYTES = 1 << 12
_GZIP = b"\x1f\x8b"
_GZIP_FIXED_BYTES = 10
_FLAGS_AT = 3
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_RESERVED_FLAGS = 0xE0
_MAGIC_BYTES = 4


class Readable(Protocol):
    """A blob's bytes, in order."""

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, b"" at the end only."""


def inflated(blob: Readable, *, warn: Callable[[str], None]) -> Iterator[bytes]:
    """The payload of blob; CorruptImage if the blob is not what its magic bytes say,
    UnsupportedImage if they say a compression that is not read."""
    source = _Peekable(blob)
    magic = source.peek(_MAGIC_BYTES)
    if magic.startswith(_GZIP):
        return _gunzipped(source, warn)
    if magic == zstd_frames.MAGIC or zstd_frames.is_skippable(magic):
        return _unzstded(source)
    refuse_unread(source.peek(BLOCK))
    return iter(lambda: source.read(PIECE_BYTES), b"")


class _Peekable:
    """A source whose next bytes can be looked at, and whose last bytes can be given back."""

    def __init__(self, blob: Readable) -> None:
        self._blob = blob
        self._buffer = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """The next size bytes, fewer only at the blob's end; they stay."""
        while len(self._buffer) - self._at < size and (more := self._blob.read(READ_BYTES)):
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> memoryview:
        """At most size bytes, none at the end only; no copy."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._blob.read(READ_BYTES), 0
        taken = memoryview(self._buffer)[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def give_back(self, count: int) -> None:
        """Take back the last count bytes of the last `take`."""
        self._at -= count

    def read(self, size: int = -1, /) -> bytes:
        if self._at == len(self._buffer):
            return self._blob.read(size)
        return bytes(self.take(size if size >= 0 else len(self._buffer)))


class _InFullReads:
    """A source whose reads are as long as asked, but for the last, however the blob arrives;
    frames follows it.

    libzstd takes a frame for a skippable one if it is cut behind its magic number and goes on
    like the other's: what a blob means must not depend on where the network cuts it.
    """

    def __init__(self, source: _Peekable, frames: zstd_frames.Frames) -> None:
        self._source = source
        self._frames = frames

    def read(self, size: int, /) -> bytes:
        pieces = [bytes(self._source.take(size))]
        missing = size - len(pieces[0])
        while missing and pieces[-1]:
            pieces.append(bytes(self._source.take(missing)))
            missing -= len(pieces[-1])
        found = b"".join(pieces)
        self._frames.feed(found)
        return found


def _gunzipped(source: _Peekable, warn: Callable[[str], None]) -> Iterator[bytes]:
    while magic := source.peek(len(_GZIP)):
        if magic != _GZIP:
            warn("gzip: trailing garbage after the last member is ignored")
            while source.take(READ_BYTES):  # it counts for the blob's digest
                pass
            return
        yield from _member(source)


def _member(source: _Peekable) -> Iterator[bytes]:
    """One member's payload. What it is fed grows with it, as the decompressor copies the rest.

    Blobs of many small members are normal (eStargz has one a file): fed with all that is
    there, each would cost a copy of that. A header is fed in one piece: ISA-L loses its place
    in one with several optional fields when that is cut.
    """
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    feed_bytes = max(FIRST_FEED_BYTES, _header_bytes(source))
    try:
        while not member.eof:
            data: bytes | memoryview = b""
            if member.needs_input:
                data = source.take(feed_bytes)
                feed_bytes = min(2 * feed_bytes, READ_BYTES)
                if not data:
                    raise errors.CorruptImage("gzip: the blob is truncated")
            if piece := member.decompress(data, PIECE_BYTES):
                yield piece
    except igzip_lib.error as error:  # type: ignore[misc] # isal's stub lacks its base class
        raise errors.CorruptImage(f"gzip: {error}") from error
    source.give_back(len(member.unused_data))


def _header_bytes(source: _Peekable) -> int:
    """The length of the member's header, all of it peeked; what is there, if it is cut short."""
    size = FIRST_FEED_BYTES
    while size <= MAX_HEADER_BYTES:
        head = source.peek(size)
        if len(head) > _FLAGS_AT and head[_FLAGS_AT] & _RESERVED_FLAGS:
            raise errors.CorruptImage("gzip: a header with reserved flags")  # as RFC 1952 demands
        if end := _header_end(head):
            return end
        if len(head) < size:
            return len(head)
        size *= 2
    raise errors.CorruptImage(f"gzip: a header of over {MAX_HEADER_BYTES} bytes")


def _header_end(head: bytes) -> int | None:
    """Where the header that head begins with ends; None if head does not hold all of it."""
    if len(head) < _GZIP_FIXED_BYTES:
        return None
    flags, end = head[_FLAGS_AT], _GZIP_FIXED_BYTES
    if flags & _FEXTRA:
        end += 2 + int.from_bytes(head[end : end + 2], "little")
    for field in (_FNAME, _FCOMMENT):
        if flags & field:
            end = head.find(b"\0", end) + 1
            if not end:
                return None
    if flags & _FHCRC:
        end += 2
    return end if end <= len(head) else None


def _unzstded(source: _Peekable) -> Iterator[bytes]:
    context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    frames = zstd_frames.Frames()
    file = cast("IO[bytes]", _InFullReads(source, frames))  # of which it calls read alone
    reader = context.stream_reader(file, read_size=READ_BYTES, read_across_frames=True)
    try:
        while piece := reader.read(PIECE_BYTES):
            yield piece
    except zstandard.ZstdError as error:
        raise errors.CorruptImage(f"zstd: {error}") from error
    if not frames.is_whole:
        raise errors.CorruptImage("zstd: the blob is truncated")


class Bound:
    """Refuses a payload over the limits: in total, and against the blob it came from."""

    def __init__(self, blob_bytes: int) -> None:
        self._limit = min(MAX_PAYLOAD_BYTES, max(RATIO_FREE_BYTES, blob_bytes * MAX_RATIO))
        self.payload_bytes = 0

    def add(self, count: int) -> None:
        """Count payload; CorruptImage once it is over the limit."""
        self.payload_bytes += count
        if self.payload_bytes > self._limit:
            raise errors.CorruptImage(
                f"the payload is over {self._limit} bytes, the limit for a blob of this size"
            )
