"""Whatever bytes come: only errors that clipfs raises on purpose leave the codec and the parsers.

Most inputs are made of valid parts with odd fields under a right checksum, so that they get
behind the first check: `--hypothesis-show-statistics` says which check stopped how many.
"""

import contextlib
import re

from hypothesis import event, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer import index as layer_index
from clipfs.layer.index import CHUNK_BYTES, CHUNK_DIGEST_BYTES, EntryKind, PackedEntries
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_SPARSE_BYTES, MAX_XATTR_BYTES
from clipfs.layer.seal import MAGIC, KeyRing
from clipfs.layer.sparse import Run
from clipfs.tree.sparse import layout_of
from tests.layer.blobs import gzip_member, payload_of, skippable_frame, zstd_frame
from tests.layer.tars import BLOCK, END, Parsed, base256, long_name, member, parsed, record
from tests.support.raw_sparse_tar import MAKERS, Maker, Runs

WIDE = st.integers(-(1 << 70), 1 << 70)
TIMES = st.integers(0, 1 << 33) | st.builds(base256, WIDE, st.just(12)) | st.binary(max_size=12)
MINORS = st.integers(0, 255) | st.builds(base256, WIDE, st.just(8))
NAMES = st.sampled_from([b"a", b"d/b", b"./d/", b"/x//y", b"../up", b""]) | st.binary(max_size=100)
KEYS = st.sampled_from(
    [
        b"path",
        b"linkpath",
        b"size",
        b"mtime",
        b"uid",
        b"gid",
        b"SCHILY.xattr.user.a",
        b"LIBARCHIVE.xattr.user.b",
        b"comment",
        b"GNU.sparse.name",
        b"GNU.sparse.size",
        b"GNU.sparse.realsize",
        b"GNU.sparse.numblocks",
        b"GNU.sparse.map",
        b"GNU.sparse.major",
        b"GNU.sparse.minor",
    ]
)
VALUES = st.one_of(
    st.sampled_from([b"", b"0", b"1", b"7", b"12.5", b"-0.1", b"QUJD", b"0,3,5,2", b"9" * 5000]),
    st.from_regex(rb"-?[0-9]{0,30}\.?[0-9]{0,12}", fullmatch=True),
    st.binary(max_size=40),
)
RUNS = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300)), max_size=30)
SORTED_RUNS = st.lists(st.integers(0, 3000), max_size=60).map(
    lambda ends: [(a, b - a) for a, b in zip(*[iter(sorted(ends))] * 2, strict=False)]
)


def sparse_member(make: Maker, size: int, runs: Runs, more: int) -> bytes:
    """One whose data is by `more` bytes not as long as its map says."""
    data_bytes = max(sum(length for _, length in runs) + more, 0)
    return make(b"s", size, runs, b"d" * data_bytes)


MAKER = st.sampled_from(list(MAKERS.values()))
SPARSE = st.builds(sparse_member, MAKER, st.just(3000), SORTED_RUNS, st.just(0))
WRONG_SPARSE = st.builds(
    sparse_member,
    MAKER,
    st.integers(0, 3000) | st.integers(0, 1 << 62),
    RUNS | SORTED_RUNS,
    st.sampled_from([0, 1, -1, 512]),
)
RECORDS = st.lists(st.builds(record, KEYS, VALUES), max_size=4).map(b"".join)
PLAIN = st.builds(member, st.sampled_from([b"a", b"d/b", b"c\xff"]), st.binary(max_size=700))
MEMBERS = st.one_of(
    PLAIN,
    PLAIN,
    SPARSE,
    SPARSE,
    WRONG_SPARSE,
    st.builds(
        member,
        NAMES,
        typeflag=st.sampled_from([bytes([kind]) for kind in b"\x0001234567SVZ"]),
        link=NAMES,
        mtime=TIMES,
        devminor=MINORS,
    ),
    st.builds(member, size=TIMES, typeflag=st.sampled_from([b"0", b"5", b"x", b"g", b"L"])),
    st.builds(
        lambda kind, body: member(b"p", body, typeflag=kind),
        st.sampled_from([b"x", b"g"]),
        RECORDS | RECORDS | st.binary(max_size=60),
    ),
    st.builds(long_name, NAMES | st.binary(max_size=600), typeflag=st.sampled_from([b"L", b"K"])),
    st.sampled_from([END, bytes(BLOCK), b"x" * 100]),
)
ARCHIVES = st.lists(MEMBERS, max_size=6).map(b"".join)
BLOBS = st.lists(
    st.one_of(
        st.builds(gzip_member, ARCHIVES, flags=st.integers(0, 31)),
        st.builds(zstd_frame, ARCHIVES),
        st.builds(skippable_frame, st.binary(max_size=20)),
        st.binary(max_size=100),
    ),
    max_size=3,
).map(b"".join)
CHANGE = st.tuples(st.integers(0, 1 << 16), st.integers(0, 255))
NO_CHANGES: list[tuple[int, int]] = []
CHANGES = st.just(NO_CHANGES) | st.lists(CHANGE, max_size=4)


def changed(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    spoiled = bytearray(data)
    for at, value in changes:
        if spoiled:
            spoiled[at % len(spoiled)] = value
    return bytes(spoiled)


def maps_of(parser: Parsed) -> list[tuple[int, int, list[Run]]]:
    return [(one.size, one.payload_offset, list(one.extents())) for one in parser.sparse]


@settings(deadline=None, max_examples=500)
@given(ARCHIVES, CHANGES, st.integers(1, 2000))
def test_a_parser_gives_entries_that_hold_or_a_named_error(
    archive: bytes, changes: list[tuple[int, int]], piece_bytes: int
) -> None:
    payload = changed(archive, changes)
    try:
        parser = parsed(payload, piece_bytes)
    except (errors.CorruptImage, errors.UnsupportedImage) as error:
        event(f"refused: {re.split('[0-9]', str(error))[0][:30]}")
        return
    entries = parser.entries
    event(f"read, {min(len(entries), 3)} entries")
    event(f"read, {min(len(parser.sparse), 2)} sparse maps")
    for entry in entries:
        assert all(
            0 < len(part) <= MAX_COMPONENT_BYTES for part in entry.path.split(b"/") if entry.path
        )
        assert 0 <= entry.mtime_ns < 1_000_000_000
        assert -(1 << 63) <= entry.mtime_s < 1 << 63
        assert entry.payload_offset % BLOCK == 0
        if entry.kind == EntryKind.SPARSE:
            assert 0 < entry.size <= MAX_SPARSE_BYTES
        else:
            assert entry.payload_offset + entry.size <= len(payload)
            assert entry.size == 0 or entry.kind == EntryKind.FILE
        assert sum(len(name) + len(value) for name, value in entry.xattrs) <= MAX_XATTR_BYTES
    with_data = [e for e in entries if e.kind == EntryKind.SPARSE and e.payload_offset]
    assert [(e.size, e.payload_offset) for e in with_data] == [m[:2] for m in maps_of(parser)]
    for size, start, extents in maps_of(parser):
        assert extents
        assert extents[0].payload_offset == start
        assert extents[-1].payload_offset + extents[-1].length <= len(payload)
        end = -1
        for extent in extents:
            assert end < extent.offset < extent.end <= size
            end = extent.end
    index = layer_index.make_index(
        payload_bytes=len(payload),
        diff_id="",
        chunk_digests=bytes(-(-len(payload) // CHUNK_BYTES) * CHUNK_DIGEST_BYTES),
        entries=PackedEntries(entries),
        sparse=parser.sparse,
    )
    decoded = layer_index.decode(layer_index.encode(index))
    assert decoded is not None
    assert decoded.entries() == entries
    assert list(decoded.sparse) == list(parser.sparse)
    with contextlib.suppress(errors.CorruptImage):  # longer than the kernel can address
        layout_of(decoded.sparse)


@settings(deadline=None, max_examples=500)
@given(BLOBS, CHANGES, st.lists(st.integers(1, 600), min_size=1, max_size=3))
def test_a_blob_gives_a_payload_or_a_named_error(
    blob: bytes, changes: list[tuple[int, int]], sizes: list[int]
) -> None:
    try:
        payload_of(changed(blob, changes), sizes)
    except errors.CorruptImage as error:
        event(f"refused: {str(error).partition(':')[0]}")
    else:
        event("read")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), CHANGES)
def test_a_layer_index_that_anyone_wrote_is_read_or_none(
    junk: bytes, changes: list[tuple[int, int]]
) -> None:
    real = layer_index.encode(
        layer_index.make_index(
            payload_bytes=5, diff_id="d", chunk_digests=bytes(32), entries=PackedEntries()
        )
    )
    for content in (junk, changed(real, changes), b"\x95\x01\x05\xa0\xc4\x20" + bytes(32) + junk):
        layer_index.decode(content)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=100), st.booleans())
def test_no_bytes_but_a_seal_open(junk: bytes, with_magic: bool) -> None:
    sealed = MAGIC + junk if with_magic else junk
    assert KeyRing((b"key",)).open(sealed, kind="toc", version=1, name="n") is None
