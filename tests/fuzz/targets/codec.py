"""Codec framing: gzip members and zstd frames, whole and cut, against zlib and libzstd's frames."""

import struct
import zlib
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

import zstandard

from clipfs import errors
from clipfs.layer.codec import PIECE_BYTES, inflated
from clipfs.layer.limits import MAX_ZSTD_WINDOW_BYTES
from tests.fuzz.judge import Mutate, Outcome, expect, expect_plain, expect_same
from tests.layer.blobs import Dripping, gzip_member, skippable_frame, zstd_frame

CAP_BYTES = 1 << 20
"""Payload looked at: a bomb may go on, in pieces."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Inflated(NamedTuple):
    """What came out, up to CAP_BYTES. error  None, or why it ended"""

    payload: bytes
    warnings: int
    error: str | None

    @property
    def is_whole(self) -> bool:
        return len(self.payload) < CAP_BYTES


def seeds() -> Iterable[bytes]:
    text = b"payload " * 40
    long = gzip_member(b"long header", flags=16).replace(b"a comment", b"c" * 5000, 1)
    return [
        b"plain",
        *(gzip_member(text, flags=flags) for flags in (0, 2, 4, 8, 16, 31)),
        gzip_member(text, level=0) + gzip_member(b"") + gzip_member(b"second"),
        gzip_member(text) + b"trailing",
        gzip_member(bytes(100_000)),
        long,
        *(zstd_frame(text, with_size=size, with_checksum=size) for size in (True, False)),
        zstd_frame(text) + skippable_frame(b"skip") + zstd_frame(b"second"),
        skippable_frame(b"first") + zstd_frame(b""),
        zstd_frame(bytes(100_000)),
        gzip_member(text)[:-5],
        zstd_frame(text)[:-5],
    ]


def run(data: bytes) -> Outcome:
    whole = _inflate(data, [1 << 20])
    sizes = [1 + len(data) % 7, 1 + zlib.crc32(data) % 600, 4096]
    cut = _inflate(data, sizes)
    if whole.is_whole and cut.is_whole:
        expect_same(whole.error is None, cut.error is None, "it matters how it is cut")
    if whole.error is None and cut.error is None:
        expect_same(whole, cut, "it matters how it is cut")
    if not _has_magic(data):
        expect_same(whole, Inflated(data[:CAP_BYTES], 0, None), "plain bytes")
        return Outcome.STOPPED
    payload, garbage = _gunzip(data) if data.startswith(GZIP) else (_unzstd(data), b"")
    if whole.is_whole and len(payload or b"") < CAP_BYTES:
        expect_same(whole.payload if whole.error is None else None, payload, "the other decoder")
        expect(whole.error or whole.warnings == bool(garbage), "warnings of trailing garbage")
    return Outcome.READ if whole.error is None else Outcome.REFUSED


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    which = random.random()
    if which < 0.05:
        return data + random.randbytes(random.randint(1, 5))
    if which < 0.25:
        return blind(data, max_bytes)
    if which < 0.5:
        return _repaired(blind(data, max_bytes))
    if which < 0.6:
        return _header_changed(data, random)
    at = random.choice(_frame_starts(data))
    payload = _BOMB if which > 0.98 else blind(random.choice(_PAYLOADS), 600)
    frame = _frame(payload, random)
    return data[:at] + frame + (data[at:] if random.random() < 0.7 else b"")


_BOMB = bytes(3 * PIECE_BYTES)
_PAYLOADS = [b"", b"a", b"abc" * 100, bytes(5000), bytes(range(256)) * 2]


def _inflate(data: bytes, sizes: list[int]) -> Inflated:
    warnings: list[str] = []
    payload = bytearray()
    error = None
    try:
        for piece in inflated(Dripping(data, sizes), warn=warnings.append):
            expect(0 < len(piece) <= PIECE_BYTES, "a piece of a wrong size")
            payload += piece
            if len(payload) >= CAP_BYTES:
                break
    except errors.CorruptImage as caught:
        expect_plain(caught)
        error = str(caught)
    return Inflated(bytes(payload[:CAP_BYTES]), len(warnings), error)


def _has_magic(data: bytes) -> bool:
    return data[:2] == GZIP or data[:4] == ZSTD or _is_skippable(data)


def _is_skippable(data: bytes) -> bool:
    return len(data) >= 4 and 0x184D2A50 <= int.from_bytes(data[:4], "little") <= 0x184D2A5F


def _gunzip(data: bytes) -> tuple[bytes | None, bytes]:
    """zlib's word, None if it refuses; and what follows the last member."""
    payload = b""
    while data.startswith(GZIP):
        member = zlib.decompressobj(31)
        try:
            payload += member.decompress(data, CAP_BYTES)
        except zlib.error:
            return None, b""
        if not member.eof:
            return None, b""
        data = member.unused_data
    return payload, data


def _unzstd(data: bytes) -> bytes | None:
    """libzstd's word, one frame after the other; None if it refuses, or the last one is cut."""
    payload = b""
    while data:
        if _is_skippable(data):
            end = 8 + int.from_bytes(data[4:8], "little")
            if len(data) < max(end, 8):
                return None
            data = data[end:]
            continue
        frame = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES).decompressobj()
        at = 0
        while at < len(data) and not frame.eof and len(payload) < CAP_BYTES:
            try:
                payload += frame.decompress(data[at : at + 16])
            except zstandard.ZstdError:
                return None
            at += 16
        if not frame.eof:
            return payload if len(payload) >= CAP_BYTES else None
        data = frame.unused_data + data[at:]
    return payload


def _frame(payload: bytes, random: Random) -> bytes:
    which = random.random()
    if which < 0.6:
        return gzip_member(payload, flags=random.choice((0, 0, random.randrange(32))),
                           level=random.choice((0, 1, 6)))  # fmt: skip
    if which < 0.9:
        size, checksum = random.random() < 0.5, random.random() < 0.5
        return zstd_frame(payload, with_size=size, with_checksum=checksum)
    return skippable_frame(payload, nibble=random.randrange(16))


def _frame_starts(data: bytes) -> list[int]:
    """Where frames seem to begin, and the end."""
    found = {0, len(data)}
    for magic in (GZIP + b"\x08", ZSTD):
        at = data.find(magic)
        while at >= 0:
            found.add(at)
            at = data.find(magic, at + 1)
    return sorted(found)


def _header_changed(data: bytes, random: Random) -> bytes:
    """A gzip member's flags and optional fields drawn anew before the same deflate stream."""
    if not data.startswith(GZIP):
        return data[:4] + bytes([random.randrange(256)]) + data[5:]
    flags = random.randrange(32 if random.random() < 0.9 else 256)
    head = GZIP + b"\x08" + bytes([flags]) + data[4:10]
    size = random.choice((0, 1, 7, 4080, 4090, 5000))
    if flags & 4:
        head += struct.pack("<H", size) + bytes(size)
    if flags & 8:
        head += b"n" * random.choice((0, 3, 4000)) + b"\0"
    if flags & 16:
        head += b"c" * size + b"\0"
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + data[10:]


def _repaired(data: bytes) -> bytes:
    """With the first member's CRC and length as its deflate stream has them, if it has an end."""
    if not data.startswith(GZIP) or len(data) < 18 or data[3]:
        return data
    member = zlib.decompressobj(-15)
    try:
        payload = member.decompress(data[10:], CAP_BYTES)
    except zlib.error:
        return data
    if not member.eof:
        return data
    end = len(data) - len(member.unused_data)
    trailer = struct.pack("<II", zlib.crc32(payload), len(payload) & 0xFFFFFFFF)
    return data[:end] + trailer + data[end + 8 :]
