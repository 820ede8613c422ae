"""Where a tar ends, and that nothing depends on how its stream is cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.archive.tar import TarParser
from clipfs.layer.index import Entry
from tests.layer.tars import END, entries_of, long_name, member, only, records

LONG = b"/".join([b"component-%02d" % number for number in range(30)])
XATTR = b"SCHILY.xattr."
BODIES = member(b"a", b"x" * 700) + member(b"b", b"y") + member(b"empty")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(BODIES + END, id="end-mark"),
        pytest.param(BODIES, id="no-end-mark"),
        pytest.param(BODIES + bytes(512), id="half-an-end-mark"),
        pytest.param(BODIES + END + b"signature" * 100, id="bytes-after-the-end-mark"),
        pytest.param(BODIES + END + member(b"after"), id="a-member-after-the-end-mark"),
        pytest.param(bytes(512) + BODIES + END, id="a-lone-zero-block-pads"),
    ],
)
def test_an_archive_ends_with_its_end_mark_or_its_payload(payload: bytes) -> None:
    found = [
        (entry.path, payload[entry.payload_offset :][: entry.size]) for entry in entries_of(payload)
    ]
    assert found == [(b"a", b"x" * 700), (b"b", b"y"), (b"empty", b"")]


def test_the_last_padding_may_be_missing() -> None:
    assert only(member(b"a", b"x" * 700)[: 512 + 700]).size == 700


@pytest.mark.parametrize("whole", [member(b"a", b"x" * 700), long_name(LONG) + member(b"a")])
def test_a_payload_cut_inside_a_member_is_refused(whole: bytes) -> None:
    end_of_data = 512 + 700 if whole.startswith(b"a") else len(whole)
    for cut in range(1, end_of_data):
        with pytest.raises(errors.CorruptImage, match="ends early"):
            entries_of(whole[:cut])


ARCHIVE = (
    records({b"comment": b"all"}, typeflag=b"g")
    + BODIES
    + long_name(LONG)
    + member(b"l", b"z" * 512)
    + records({b"path": b"p\xff", XATTR + b"user.a": b"v" * 600})
    + member()
    + END
    + b"tail"
)
WHOLE = entries_of(ARCHIVE)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(ARCHIVE))))
def test_entries_do_not_depend_on_how_the_stream_is_cut(cuts: list[int]) -> None:
    entries: list[Entry] = []
    parser, edges = TarParser(entries.append), [0, *sorted(cuts), len(ARCHIVE)]
    for begin, end in itertools.pairwise(edges):
        parser.feed(ARCHIVE[begin:end])
    parser.close()
    assert entries == WHOLE
