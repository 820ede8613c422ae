"""Blobs by hand: gzip members and zstd frames as the formats allow them, not as tools make them."""

import io
import struct
import zlib

import zstandard

from clipfs.layer.codec import inflated

FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT = 1, 2, 4, 8, 16


def gzip_member(payload: bytes, *, flags: int = 0, level: int = 6) -> bytes:
    """One member with each optional header field that flags name. RFC 1952, 2.3."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + struct.pack("<IBB", 1_700_000_000, 0, 3)
    if flags & FEXTRA:
        head += struct.pack("<H", 7) + b"SG\x03\x00abc"
    if flags & FNAME:
        head += b"layer\xe9.tar\0"
    if flags & FCOMMENT:
        head += b"a comment\0"
    if flags & FHCRC:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = deflate.compress(payload) + deflate.flush()
    return head + body + struct.pack("<II", zlib.crc32(payload), len(payload) & 0xFFFFFFFF)


def zstd_frame(payload: bytes, *, with_size: bool = True, with_checksum: bool = True) -> bytes:
    return zstandard.ZstdCompressor(
        level=3, write_content_size=with_size, write_checksum=with_checksum
    ).compress(payload)


def skippable_frame(content: bytes, *, nibble: int = 0) -> bytes:
    """RFC 8878, 3.1.2: one of sixteen magic numbers."""
    return struct.pack("<II", 0x184D2A50 + nibble, len(content)) + content


class Dripping(io.BytesIO):
    """A blob that arrives in pieces of the given sizes, over and over."""

    def __init__(self, blob: bytes, sizes: list[int]) -> None:
        super().__init__(blob)
        self._sizes = sizes
        self._turn = 0

    def read(self, size: int | None = -1, /) -> bytes:
        most = self._sizes[self._turn % len(self._sizes)]
        self._turn += 1
        return super().read(most if size is None or size < 0 else min(size, most))


def payload_of(blob: bytes, sizes: list[int] | None = None) -> tuple[bytes, list[str]]:
    """The payload of blob and the warnings that it gave."""
    warnings: list[str] = []
    source = Dripping(blob, sizes or [1 << 20])
    return b"".join(inflated(source, warn=warnings.append)), warnings
