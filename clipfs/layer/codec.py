"""Decompression told by magic bytes, not by media type: gzip, zstd, or plain.

`inflated` pulls blob bytes and yields payload in pieces of at most PIECE_BYTES, so a bomb
cannot allocate. Several gzip members, zstd frames and skippable frames are one payload.
That a zstd blob ends inside a frame is told by its digests, not here.

Source: RFC 1952 (gzip), RFC 8878 (zstd).
"""

from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib

from clipfs import errors
from clipfs.layer.limits import (
    MAX_PAYLOAD_BYTES,
    MAX_RATIO,
    MAX_ZSTD_WINDOW_BYTES,
    RATIO_FREE_BYTES,
)

PIECE_BYTES = 1 << 20
READ_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES = 4


class Readable(Protocol):
    """A blob's bytes, in order."""

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, b"" at the end only."""


def inflated(blob: Readable, *, warn: Callable[[str], None]) -> Iterator[bytes]:
    """The payload of blob; CorruptImage if the blob is not what its magic bytes say."""
    source = _Peekable(blob)
    magic = source.peek(_MAGIC_BYTES)
    if magic.startswith(_GZIP):
        return _gunzipped(source, warn)
    if magic.startswith(_ZSTD) or _is_skippable(magic):
        return _unzstded(source)
    return iter(lambda: source.read(PIECE_BYTES), b"")


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50


class _Peekable:
    """A source whose first bytes can be looked at, and to which bytes can be given back."""

    def __init__(self, blob: Readable) -> None:
        self._blob = blob
        self._kept = b""

    def peek(self, size: int) -> bytes:
        while len(self._kept) < size and (more := self._blob.read(READ_BYTES)):
            self._kept += more
        return self._kept[:size]

    def give_back(self, data: bytes) -> None:
        self._kept = data + self._kept

    def read(self, size: int = -1, /) -> bytes:
        if not self._kept:
            return self._blob.read(size)
        data, self._kept = self._kept, b""
        if 0 <= size < len(data):
            data, self._kept = data[:size], data[size:]
        return data


def _gunzipped(source: _Peekable, warn: Callable[[str], None]) -> Iterator[bytes]:
    while magic := source.peek(len(_GZIP)):
        if magic != _GZIP:
            warn("gzip: trailing garbage after the last member is ignored")
            while source.read(READ_BYTES):  # it counts for the blob's digest
                pass
            return
        yield from _member(source)


def _member(source: _Peekable) -> Iterator[bytes]:
    member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    try:
        while not member.eof:
            data = source.read(READ_BYTES) if member.needs_input else b""
            if member.needs_input and not data:
                raise errors.CorruptImage("gzip: the blob is truncated")
            if piece := member.decompress(data, PIECE_BYTES):
                yield piece
    except igzip_lib.error as error:  # type: ignore[misc] # isal's stub lacks its base class
        raise errors.CorruptImage(f"gzip: {error}") from error
    source.give_back(member.unused_data)


def _unzstded(source: _Peekable) -> Iterator[bytes]:
    context = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    file = cast("IO[bytes]", source)  # of which it calls read alone
    reader = context.stream_reader(file, read_size=READ_BYTES, read_across_frames=True)
    try:
        while piece := reader.read(PIECE_BYTES):
            yield piece
    except zstandard.ZstdError as error:
        raise errors.CorruptImage(f"zstd: {error}") from error


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
