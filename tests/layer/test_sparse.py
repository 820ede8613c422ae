"""Sparse members: four formats, one map; what a map may not say."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer import sparse
from clipfs.layer.archive import sparse_formats, sparse_members
from clipfs.layer.archive.tar import TarParser
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import MAX_EXTENTS, MAX_SPARSE_BYTES
from clipfs.layer.sparse import Run
from tests.layer.tars import END, base256, member, padded, parsed, record, records
from tests.support.raw_sparse_tar import (
    MAKERS,
    Maker,
    Runs,
    in_data,
    old_gnu,
    pax_00,
    pax_01,
    pax_10,
    sparse_records,
)
from tests.support.raw_tar import long_name, with_checksum
from tests.support.sparse_layers import content_of

each_format = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@st.composite
def files(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A size, and runs in it: touching, empty, at both ends or not."""
    runs, end = [], 0
    for gap, length in draw(st.lists(st.tuples(GAPS, GAPS), max_size=50)):
        runs.append((end + gap, length))
        end += gap + length
    return end + draw(GAPS), runs


GAPS = st.sampled_from([0, 0, 1, 511, 512, 513, 4096]) | st.integers(0, 3000)


def data_of(runs: Runs) -> bytes:
    """Bytes that differ from place to place, and are never zero."""
    total = sum(length for _, length in runs)
    return bytes(1 + at % 251 for at in range(total))


@settings(max_examples=150, deadline=None)
@given(files(), st.sampled_from(sorted(MAKERS)), st.sampled_from([1, 511, 513, 4096, None]))
def test_the_content_is_the_files_however_it_was_written_and_is_cut(
    file: tuple[int, list[tuple[int, int]]], name: str, piece_bytes: int | None
) -> None:
    size, runs = file
    data = data_of(runs)
    expected, at = bytearray(size), 0
    for offset, length in runs:
        expected[offset : offset + length] = data[at : at + length]
        at += length
    before, after = member(b"before", b"b" * 700), member(b"after", b"a" * 700)
    payload = before + MAKERS[name](b"folder/s", size, runs, data) + after + END
    parser = parsed(payload, piece_bytes)
    assert [entry.path for entry in parser.entries] == [b"before", b"folder/s", b"after"]
    entry = parser.entries[1]
    assert entry.size == size
    assert content_of(entry, parser.sparse, payload) == expected
    assert content_of(parser.entries[2], parser.sparse, payload) == b"a" * 700
    assert entry.payload_offset % 512 == 0
    for one in parser.sparse:
        found = list(one.extents())
        assert all(run.length for run in found)
        assert all(run.end < later.offset for run, later in itertools.pairwise(found))


@each_format
def test_a_sparse_member_without_a_hole_is_a_plain_file(make: Maker) -> None:
    parser = parsed(make(b"s", 2000, [(0, 1500), (1500, 500), (2000, 0)], b"d" * 2000) + END)
    (entry,) = parser.entries
    assert (entry.kind, entry.size, parser.sparse) == (EntryKind.FILE, 2000, [])


@each_format
@pytest.mark.parametrize("runs", [[], [(5000, 0)], [(0, 0), (7, 0)]])
def test_a_hole_from_end_to_end_has_no_map_and_no_place(make: Maker, runs: Runs) -> None:
    parser = parsed(make(b"s", 5000, runs, b"") + END)
    (entry,) = parser.entries
    assert (entry.kind, entry.size, entry.payload_offset) == (EntryKind.SPARSE, 5000, 0)
    assert parser.sparse == []


@each_format
def test_an_empty_sparse_member_is_an_empty_file(make: Maker) -> None:
    (entry,) = parsed(make(b"s", 0, [(0, 0)], b"") + END).entries
    assert (entry.kind, entry.size) == (EntryKind.FILE, 0)


@each_format
def test_offsets_beyond_8_gib_are_kept(make: Maker) -> None:
    runs = [(9 << 30, 100), (10 << 40, 5)]
    parser = parsed(make(b"s", (10 << 40) + 6, runs, b"d" * 105) + END)
    (entry,), (found,) = parser.entries, parser.sparse
    assert entry.size == found.size == (10 << 40) + 6
    start = entry.payload_offset
    assert list(found.extents()) == [
        Run(9 << 30, 100, start),
        Run(10 << 40, 5, start + 100),
    ]


def test_the_name_of_a_sparse_record_is_the_files() -> None:
    named = sparse_records(name=b"own", size=b"9", numblocks=b"0")
    both = records({b"path": b"other", b"GNU.sparse.name": b"own", b"GNU.sparse.size": b"9",
                    b"GNU.sparse.numblocks": b"0"})  # fmt: skip
    for before in (named, both, long_name(b"longer") + named, named + long_name(b"longer")):
        assert parsed(before + member(b"x") + END).entries[0].path == b"own"


def test_fields_of_a_header_run_end_at_the_first_blank_one() -> None:
    head = bytearray(old_gnu(b"s", 5000, [(0, 10), (1000, 5)], b"d" * 15))
    head[410:434] = bytes(24)  # the second run: what stands behind it is not looked at
    head[434:458] = base256(4000, 12) + base256(5, 12)
    head[124:136] = b"%011o\0" % 10
    (found,) = parsed(with_checksum(head[:512]) + padded(b"d" * 10) + END).sparse
    assert [run[:2] for run in found.extents()] == [(0, 10)]


def old_gnu_of(size: bytes, *fields: bytes) -> bytes:
    head = bytearray(old_gnu(b"s", 0, [], b""))
    head[386:482] = b"".join(fields).ljust(96, b"\0")
    head[483:495] = size
    return with_checksum(head)


def of_records(body: bytes, data: bytes = b"") -> bytes:
    return member(b"pax", body, typeflag=b"x") + member(b"s", data)


def pair(offset: bytes, length: bytes) -> bytes:
    return record(b"GNU.sparse.offset", offset) + record(b"GNU.sparse.numbytes", length)


SIZE = record(b"GNU.sparse.size", b"9")
COUNT = record(b"GNU.sparse.numblocks", b"1")
MALFORMED = [
    *(
        pytest.param(make(b"s", size, runs, data), words, id=f"{words[:12]}-{name}-{number}")
        for name, make in MAKERS.items()
        for number, (size, runs, data, words) in enumerate(
            [
                (9, [(4, 2), (0, 1)], b"ddd", "behind"),
                (9, [(0, 5), (4, 1)], b"d" * 6, "behind"),
                (9, [(0, 5), (4, 0)], b"d" * 5, "behind"),
                (9, [(5, 5)], b"d" * 5, "of 9"),
                (9, [(10, 0)], b"", "of 9"),
                (9, [(0, 5)], b"d" * 4, "5 bytes for 4"),
                (9, [(0, 5)], b"d" * 6, "5 bytes for 6"),
                (MAX_SPARSE_BYTES + 1, [], b"", "over"),
            ]
        )
    ),
    pytest.param(old_gnu_of(base256(-1, 12)), "-1 bytes", id="gnu-negative-size"),
    pytest.param(old_gnu_of(b"9" * 12), "not a number", id="gnu-size-no-number"),
    pytest.param(
        old_gnu_of(base256(9, 12), base256(0, 12), base256(-1, 12)), "-1 bytes", id="gnu-negative"
    ),
    pytest.param(
        old_gnu_of(base256(9, 12), base256(-1, 12), base256(1, 12)), "behind", id="gnu-before"
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"0") + old_gnu(b"s", 9, [], b""),
        "two formats", id="pax-records-of-a-gnu-member",
    ),
    pytest.param(of_records(SIZE + COUNT + pair(b"0", b"")), "number", id="00-empty-number"),
    pytest.param(of_records(SIZE + COUNT + pair(b"0", b"-1")), "number", id="00-negative"),
    pytest.param(of_records(SIZE + COUNT + pair(b"0", b"9" * 21)), "number", id="00-21-digits"),
    pytest.param(of_records(SIZE + pair(b"0", b"1"), b"d"), "how many", id="00-no-count"),
    pytest.param(of_records(SIZE + COUNT), "0 numbers for 1", id="00-no-runs"),
    pytest.param(
        of_records(SIZE + COUNT + pair(b"0", b"1") * 2), "4 numbers for 1", id="00-more-runs"
    ),
    pytest.param(
        of_records(SIZE + COUNT + record(b"GNU.sparse.offset", b"0") * 2), "alternate",
        id="00-two-offsets",
    ),
    pytest.param(
        of_records(SIZE + COUNT + record(b"GNU.sparse.offset", b"0")), "numbers for 1",
        id="00-no-length",
    ),
    pytest.param(
        of_records(SIZE + COUNT + record(b"GNU.sparse.numbytes", b"1")), "alternate",
        id="00-no-offset",
    ),
    pytest.param(
        of_records(SIZE + COUNT + pair(b"0", b"1") + record(b"GNU.sparse.map", b"0,1"), b"d"),
        "alternate", id="00-and-01",
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"1", map=b"0") + member(b"s"), "1 numbers for 1",
        id="01-odd",
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"1", map=b"0,1,") + member(b"s"), "3 numbers for 1",
        id="01-comma-at-the-end",
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"1", map=b"0, 1") + member(b"s"), "number",
        id="01-blank",
    ),
    pytest.param(
        sparse_records(numblocks=b"0") + member(b"s"), "one real size", id="no-real-size"
    ),
    pytest.param(
        sparse_records(size=b"9", realsize=b"8", numblocks=b"0") + member(b"s"), "one real size",
        id="two-real-sizes",
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"0") + member(b"s/", typeflag=b"5"), "no file",
        id="folder",
    ),
    pytest.param(
        sparse_records(size=b"9", numblocks=b"0") + member(b"s", typeflag=b"1", link=b"x"),
        "no file", id="hard-link",
    ),
    pytest.param(
        sparse_records(major=b"1", minor=b"0", realsize=b"9", map=b"0,1") + member(b"s"),
        "two versions", id="10-and-01",
    ),
    *(
        pytest.param(in_data(b"s", 9, body), words, id=f"10-{name}")
        for name, body, words in [
            ("no-body", b"", "longer than its member"),
            ("short-body", b"0\n", "longer than its member"),
            ("no-number", padded(b"x\n"), "number"),
            ("blank-line", padded(b"1\n\n1\n"), "number"),
            ("sign", padded(b"1\n-1\n1\n"), "number"),
            ("no-newline", b"1" * 512, "number"),
            ("nul-in-the-map", padded(b"1\n0\n"), "number"),
            ("too-many-runs", padded(b"%d\n" % (MAX_EXTENTS + 1)), "runs"),
            ("ends-in-the-map", padded(b"40\n") .replace(b"\0", b"1\n", 400)[:512], "behind"),
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "words"), MALFORMED)
def test_a_malformed_map_is_corrupt_and_names_its_member(payload: bytes, words: str) -> None:
    with pytest.raises(errors.CorruptImage, match=words) as caught:
        parsed(payload + bytes(4096))
    assert str(caught.value).startswith("tar: 's': ")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(member(b"s", typeflag=b"S"), id="not-gnu"),
        pytest.param(sparse_records(major=b"2", minor=b"0") + member(b"s"), id="version-2.0"),
        pytest.param(sparse_records(major=b"1", minor=b"1") + member(b"s"), id="version-1.1"),
        pytest.param(sparse_records(major=b"1") + member(b"s"), id="no-minor-version"),
        pytest.param(
            records({b"GNU.sparse.size": b"9"}, typeflag=b"g") + member(b"s"), id="global"
        ),
    ],
)
def test_a_sparse_member_of_an_unknown_kind_is_unsupported(payload: bytes) -> None:
    with pytest.raises(errors.UnsupportedImage, match="sparse"):
        parsed(payload + END)


def test_an_archive_that_ends_in_a_map_is_corrupt() -> None:
    runs = [(2 * at, 1) for at in range(300)]
    for make in (old_gnu, pax_10):
        whole = make(b"s", 1000, runs, b"d" * 300)
        cut = whole[: whole.index(b"d" * 300) - 512]
        with pytest.raises(errors.CorruptImage, match="ends early"):
            parsed(cut)


@each_format
def test_runs_of_one_member_are_bounded(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MAX_EXTENTS", 30)
    monkeypatch.setattr(sparse_formats, "MAX_EXTENTS", 30)
    runs = [(2 * at, 1) for at in range(31)]
    assert parsed(make(b"s", 99, runs[:30], b"d" * 30) + END).sparse[0].run_count == 30
    with pytest.raises(errors.CorruptImage, match="runs"):
        parsed(make(b"s", 99, runs, b"d" * 31) + END)


def test_blocks_of_a_map_are_bounded_though_they_state_nothing() -> None:
    head = bytearray(old_gnu(b"s", 9, [], b""))
    head[482] = 1
    block = (bytes(504) + b"\1").ljust(512, b"\0")
    with pytest.raises(errors.CorruptImage, match="blocks"):
        parsed(with_checksum(head) + block * (MAX_EXTENTS // 21 + 2))


def test_runs_of_all_members_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_members, "MAX_LAYER_EXTENTS", 5)
    one = pax_01(b"s", 9, [(0, 1), (4, 1)], b"dd")
    assert len(parsed(one * 2 + END).sparse) == 2
    with pytest.raises(errors.CorruptImage, match="more than 5 runs together"):
        parsed(one * 3 + END)


def test_sparse_members_with_data_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_members, "MAX_SPARSE_MEMBERS", 2)
    one, hole = pax_01(b"s", 9, [(0, 1)], b"d"), pax_01(b"s", 9, [], b"")
    assert len(parsed(one * 2 + hole * 3 + END).sparse) == 2
    with pytest.raises(errors.CorruptImage, match="more than 2 sparse members"):
        parsed(one * 3 + END)


def test_the_parser_keeps_no_more_of_a_map_than_its_runs() -> None:
    runs = [(2 * at, 1) for at in range(20_000)]
    payload = pax_10(b"s", 40_000, runs, b"d" * 20_000)
    ignored: list[Entry] = []
    parser, held = TarParser(ignored.append), 0
    for at in range(0, len(payload), 512):
        parser.feed(payload[at : at + 512])
        held = max(held, len(parser._held))
    parser.close()
    assert held < 512
    assert len(parser.sparse[0].runs) == 16 * 20_000


def test_records_of_an_earlier_member_are_forgotten() -> None:
    payload = pax_00(b"s", 9, [(0, 1)], b"d") + member(b"plain", b"p" * 5) + END
    assert [one.kind for one in parsed(payload).entries] == [EntryKind.SPARSE, EntryKind.FILE]
