"""A blob's payload: told by magic bytes, whole however it is cut, bounded, or refused."""

import bz2
import itertools
import lzma
import random
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip_lib

from clipfs import errors
from clipfs.layer.codec import PIECE_BYTES, Bound, inflated
from clipfs.layer.limits import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    ZSTD_FREE_BLOCKS,
)
from tests.layer.blobs import (
    FCOMMENT,
    FEXTRA,
    FHCRC,
    FNAME,
    FTEXT,
    Dripping,
    gzip_member,
    payload_of,
    skippable_frame,
    zstd_frame,
)
from tests.support.raw_tar import END, member

TEXT = b"a layer's payload, " * 300
NOISE = random.Random(1).randbytes(5000)


@pytest.mark.parametrize(
    ("blob", "payload"),
    [
        pytest.param(gzip_member(TEXT), TEXT, id="gzip"),
        pytest.param(gzip_member(b""), b"", id="gzip-of-nothing"),
        pytest.param(gzip_member(NOISE, level=0), NOISE, id="gzip-stored"),
        pytest.param(gzip_member(TEXT) + gzip_member(NOISE), TEXT + NOISE, id="gzip-two-members"),
        pytest.param(
            gzip_member(b"") + gzip_member(TEXT) + gzip_member(b""), TEXT, id="gzip-empty-members"
        ),
        pytest.param(zstd_frame(TEXT), TEXT, id="zstd"),
        pytest.param(zstd_frame(b""), b"", id="zstd-of-nothing"),
        pytest.param(
            zstd_frame(TEXT, with_size=False, with_checksum=False), TEXT, id="zstd-says-no-size"
        ),
        pytest.param(zstd_frame(TEXT) + zstd_frame(NOISE), TEXT + NOISE, id="zstd-two-frames"),
        pytest.param(
            zstd_frame(TEXT) + zstd_frame(b"") + zstd_frame(NOISE),
            TEXT + NOISE,
            id="zstd-empty-frame",
        ),
        pytest.param(skippable_frame(NOISE) + zstd_frame(TEXT), TEXT, id="zstd-skippable-first"),
        pytest.param(
            zstd_frame(TEXT)
            + skippable_frame(b"", nibble=15)
            + zstd_frame(NOISE)
            + skippable_frame(b"index", nibble=7),
            TEXT + NOISE,
            id="zstd-skippable-between-and-last",
        ),
        pytest.param(skippable_frame(b"only"), b"", id="zstd-skippable-only"),
        pytest.param(TEXT, TEXT, id="plain"),
        pytest.param(b"\x1f", b"\x1f", id="plain-one-byte"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_a_blob_is_decompressed_by_its_magic_bytes(blob: bytes, payload: bytes) -> None:
    for sizes in ([1 << 20], [1], [3, 700]):
        assert payload_of(blob, sizes) == (payload, [])


LZ4_OF_NOTHING = bytes.fromhex("04224d186040820000000000") + b"\0" * 4

OTHERS = [
    pytest.param("bzip2", bz2.compress(TEXT), id="bzip2"),
    pytest.param("xz", lzma.compress(TEXT), id="xz"),
    pytest.param("lz4", LZ4_OF_NOTHING, id="lz4"),
    *(
        pytest.param("zlib", zlib.compress(TEXT, level), id=f"zlib-{level}")
        for level in (0, 3, 6, 9)
    ),
    pytest.param("bzip2", bz2.compress(random.Random(2).randbytes(9000)), id="bzip2-long"),
]


@pytest.mark.parametrize(("name", "blob"), OTHERS)
@pytest.mark.parametrize("sizes", [[1 << 20], [1]], ids=["at-once", "byte-by-byte"])
def test_a_compression_that_is_not_read_is_refused_by_its_name(
    sizes: list[int], name: str, blob: bytes
) -> None:
    told = f"compressed by {name}, which is not supported; push it again with gzip or zstd"
    with pytest.raises(errors.UnsupportedImage, match=told):
        payload_of(blob, sizes)


@pytest.mark.parametrize(
    "name", [b"BZh91AY", b"\xfd7zXZ", b"\x04\x22\x4d\x18", b"x\x9c"], ids=ascii
)
@pytest.mark.parametrize(
    "magic", [b"ustar\x0000", b"ustar  \0", bytes(8)], ids=["pax", "gnu", "v7"]
)
def test_a_tar_whose_first_name_begins_like_a_compression_is_a_tar(
    magic: bytes, name: bytes
) -> None:
    tar = member(name, magic=magic) + END
    assert payload_of(tar, [1 << 20]) == (tar, [])


@pytest.mark.parametrize("flags", range(32))
def test_every_combination_of_gzip_header_flags_is_read(flags: int) -> None:
    assert FTEXT | FHCRC | FEXTRA | FNAME | FCOMMENT == 31
    blob = gzip_member(TEXT, flags=flags) + gzip_member(NOISE, flags=flags)
    for sizes in ([1 << 20], [1]):
        assert payload_of(blob, sizes) == (TEXT + NOISE, [])


def test_a_gzip_header_may_be_long_and_no_longer_than_its_limit() -> None:
    head, rest = gzip_member(TEXT, flags=FNAME | FCOMMENT).split(b"layer\xe9", 1)
    assert payload_of(head + b"n" * 100_000 + rest, [1000]) == (TEXT, [])
    with pytest.raises(errors.CorruptImage, match="header of over"):
        payload_of(head + b"n" * MAX_HEADER_BYTES + rest)


@pytest.mark.parametrize("garbage", [b"\0", bytes(5000), b"\x1f", b"garbage" * 500_000])
def test_garbage_after_the_last_gzip_member_is_a_warning_and_is_read_to_its_end(
    garbage: bytes,
) -> None:
    warnings: list[str] = []
    blob = Dripping(gzip_member(TEXT) + garbage, [1 << 20])
    assert b"".join(inflated(blob, warn=warnings.append)) == TEXT
    assert len(warnings) == 1
    assert "trailing garbage" in warnings[0]
    assert blob.read() == b""


def test_a_gzip_blob_cut_anywhere_is_refused() -> None:
    blob = gzip_member(b"first" * 20, flags=31) + gzip_member(b"second" * 20)
    first = len(gzip_member(b"first" * 20, flags=31))
    for cut in range(2, len(blob)):
        if cut in (first, first + 1):  # one byte of a second magic is garbage, as GNU gzip has it
            continue
        with pytest.raises(errors.CorruptImage, match="truncated"):
            payload_of(blob[:cut])


@pytest.mark.parametrize("with_size", [True, False], ids=["sized", "of-any-size"])
@pytest.mark.parametrize("with_checksum", [True, False], ids=["checked", "unchecked"])
def test_a_zstd_blob_cut_anywhere_is_refused(with_size: bool, with_checksum: bool) -> None:
    frames = [
        zstd_frame(TEXT[:400], with_size=with_size, with_checksum=with_checksum),
        skippable_frame(b"skipped"),
        zstd_frame(bytes(300_000), with_size=with_size, with_checksum=with_checksum),
        zstd_frame(b""),
    ]
    ends = list(itertools.accumulate(map(len, frames)))
    blob = b"".join(frames)
    for cut in range(4, len(blob)):
        if cut in ends:
            payload_of(blob[:cut])
        else:
            with pytest.raises(errors.CorruptImage, match="zstd"):
                payload_of(blob[:cut])


def test_a_zstd_blob_of_blocks_that_hold_nothing_is_refused() -> None:
    """Each takes a hundred times longer to follow than to send."""
    header = zstd_frame(b"", with_size=False, with_checksum=False)[:6]
    empty, last = bytes(3), b"\1\0\0"
    assert payload_of(header + empty * ZSTD_FREE_BLOCKS + last)[0] == b""
    with pytest.raises(errors.CorruptImage, match="refused as too many"):
        payload_of(header + empty * 2 * ZSTD_FREE_BLOCKS + last)


def _flipped(blob: bytes, at: int) -> bytes:
    spoiled = bytearray(blob)
    spoiled[at] ^= 0x40
    return bytes(spoiled)


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(_flipped(gzip_member(NOISE, level=0), 1000), id="gzip-data"),
        pytest.param(_flipped(gzip_member(TEXT), -8), id="gzip-checksum"),
        pytest.param(_flipped(gzip_member(TEXT), 2), id="gzip-method"),
        pytest.param(gzip_member(TEXT) + _flipped(gzip_member(TEXT), 3), id="gzip-reserved-flag"),
        pytest.param(_flipped(zstd_frame(NOISE), 1000), id="zstd-data"),
        pytest.param(_flipped(zstd_frame(TEXT), -1), id="zstd-checksum"),
        pytest.param(zstd_frame(TEXT) + b"garbage", id="zstd-garbage-after-the-frame"),
    ],
)
def test_a_blob_that_contradicts_itself_is_refused(blob: bytes) -> None:
    with pytest.raises(errors.CorruptImage):
        payload_of(blob)


def test_a_zstd_window_that_wants_too_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(errors.CorruptImage, match="zstd"):
        payload_of(writer.compress(TEXT) + writer.flush())


PARTS = st.binary(max_size=300) | st.integers(0, 200_000).map(lambda n: b"\0" * n)
SIZES = st.lists(st.sampled_from([1, 2, 17, 4096, 1 << 20]), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=5), SIZES)
def test_gzip_members_are_one_payload_however_the_blob_is_cut(
    parts: list[bytes], sizes: list[int]
) -> None:
    blob = b"".join(gzip_member(part) for part in parts)
    assert payload_of(blob, sizes) == (b"".join(parts), [])


@settings(deadline=None)
@given(st.lists(st.tuples(PARTS, st.booleans()), min_size=1, max_size=5), SIZES)
def test_zstd_frames_are_one_payload_however_the_blob_is_cut(
    parts: list[tuple[bytes, bool]], sizes: list[int]
) -> None:
    blob = b"".join(skippable_frame(part) if skip else zstd_frame(part) for part, skip in parts)
    assert payload_of(blob, sizes) == (b"".join(part for part, skip in parts if not skip), [])


def test_a_zstd_frame_that_is_cut_behind_its_magic_number_is_not_taken_for_a_skippable_one() -> (
    None
):
    """Found by tests.fuzz: 57 2a 4d 18, its next four bytes, are also a skippable frame's first."""
    wants_dictionary = bytes.fromhex("28b52ffd 572a4d18 2e020000") + b"n" * 559
    for sizes in ([1 << 20], [4, 1 << 20], [4, 575, 4096], [1]):
        with pytest.raises(errors.CorruptImage, match="Dictionary mismatch"):
            payload_of(wants_dictionary, sizes)


@pytest.mark.parametrize("compress", [gzip_member, zstd_frame, bytes])
def test_no_piece_is_larger_than_the_limit_so_that_a_bomb_cannot_allocate(
    compress: Callable[[bytes], bytes],
) -> None:
    payload = bytes(10 * PIECE_BYTES + 5)
    sizes = [len(piece) for piece in inflated(Dripping(compress(payload), [1 << 30]), warn=print)]
    assert sum(sizes) == len(payload)
    assert max(sizes) <= PIECE_BYTES


def test_a_blob_of_many_small_members_is_fed_in_small_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An eStargz blob has one member a file: to feed each of them all that is there is slow."""
    fed: list[int] = []

    class Counting:
        def __init__(self, *, flag: int) -> None:
            self._real = real(flag=flag)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            fed.append(len(data))
            piece: bytes = self._real.decompress(data, max_length)
            return piece

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    real = igzip_lib.IgzipDecompressor
    monkeypatch.setattr(igzip_lib, "IgzipDecompressor", Counting)
    blob = gzip_member(NOISE[:1000]) * 500
    assert payload_of(blob)[0] == NOISE[:1000] * 500
    assert sum(fed) < 6 * len(blob)


@pytest.mark.parametrize(
    ("blob_bytes", "limit"),
    [
        pytest.param(100, RATIO_FREE_BYTES, id="small-payloads-have-no-ratio"),
        pytest.param(1 << 20, MAX_RATIO << 20, id="ratio"),
        pytest.param(1 << 40, MAX_PAYLOAD_BYTES, id="in-total"),
    ],
)
def test_a_payload_over_its_limit_is_refused_with_the_figure(blob_bytes: int, limit: int) -> None:
    bound = Bound(blob_bytes)
    bound.add(limit)
    with pytest.raises(errors.CorruptImage, match=str(limit)):
        bound.add(1)
