"""Reading ahead: who reads a file in order finds the next bytes on the disk, nobody else pays."""

from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.tiers.chain import TierChain
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.pages import PAGE_BYTES
from clipfs.tiers.read_ahead import (
    MAX_PIECES,
    PIECE_BYTES,
    START_BYTES,
    WINDOW_BYTES,
    ReadAhead,
    Streams,
)
from clipfs.tiers.tier import Extent
from tests.support.memory_tier import MemoryTier
from tests.support.samples import Sample
from tests.support.tier_stack import KEYS, made_layout

FILE_END = 1 << 40
STEP = 256 << 10
THERE_BYTES = 6 << 20


def in_order(start: int, stop: int, *, step: int = STEP) -> Iterator[Extent]:
    for offset in range(start, stop, step):
        yield Extent(offset, min(step, stop - offset))


def pieces_of(
    reads: Iterator[Extent] | list[Extent], *, key: str = "one", end: int = FILE_END
) -> list[Extent]:
    """What all of reads have brought ahead; each brings as much as it likes."""
    streams = Streams()
    return [
        piece
        for extent in reads
        for piece in streams.next_pieces(key, extent, end=end, most=MAX_PIECES)
    ]


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param([Extent(0, 53_248)], id="one read"),
        pytest.param([Extent(0, STEP)], id="what the kernel makes of it at a file's start"),
        pytest.param([Extent(n * (3 << 20), STEP) for n in range(50)], id="every third megabyte"),
        pytest.param([Extent(n * (3 << 20), STEP) for n in range(50, 0, -1)], id="backwards"),
        pytest.param([Extent(5, 100)] * 50, id="the same again and again"),
    ],
)
def test_who_does_not_read_in_order_has_nothing_brought(reads: list[Extent]) -> None:
    assert pieces_of(reads) == []


def test_what_is_ahead_grows_with_what_was_read_up_to_the_window() -> None:
    streams, most = Streams(), 0
    for extent in in_order(0, 40 << 20):
        pieces = streams.next_pieces("one", extent, end=FILE_END, most=MAX_PIECES)
        assert not pieces or pieces[-1].end - extent.end <= min(2 * extent.end, WINDOW_BYTES)
        most = max([most, *(piece.end - extent.end for piece in pieces)])
    assert most == WINDOW_BYTES


@pytest.mark.parametrize("start", [0, 512, 5 * CHUNK_BYTES + 512])
def test_pieces_follow_each_other_without_a_gap_and_lie_within_pages(start: int) -> None:
    pieces = pieces_of(in_order(start, start + (40 << 20)))
    assert len(pieces) > 15
    assert all(one.end == other.offset for one, other in pairwise(pieces))
    assert {one.offset // PAGE_BYTES == (one.end - 1) // PAGE_BYTES for one in pieces} == {True}
    assert pieces[0].offset - start <= START_BYTES + PIECE_BYTES


def test_nothing_beyond_the_files_end_is_brought() -> None:
    end = (3 << 20) + 70_001
    pieces = pieces_of(in_order(512, end), end=end)
    assert pieces[-1].end == end


def test_streams_of_two_files_and_two_layers_are_told_apart() -> None:
    streams = Streams()
    found: dict[tuple[str, int], list[Extent]] = {}
    for extent in in_order(0, 8 << 20):
        for key, end in (("one", FILE_END), ("other", FILE_END), ("one", FILE_END + 1)):
            pieces = streams.next_pieces(key, extent, end=end, most=MAX_PIECES)
            found.setdefault((key, end), []).extend(pieces)
    assert len(found) == 3
    assert len({tuple(pieces) for pieces in found.values()}) == 1


def test_reads_that_overtake_each_other_are_one_stream() -> None:
    straight = list(in_order(0, 8 << 20))
    swapped = [one for pair in zip(straight[1::2], straight[::2], strict=True) for one in pair]
    assert pieces_of(swapped)[-1].end >= 8 << 20


@given(st.lists(st.tuples(st.integers(0, 1 << 24), st.integers(1, 1 << 20)), max_size=60))
def test_whatever_is_read_no_byte_before_the_reader_and_beyond_the_end_is_brought(
    reads: list[tuple[int, int]],
) -> None:
    streams, end = Streams(), 1 << 25
    for offset, length in reads:
        extent = Extent(offset, length)
        pieces = streams.next_pieces("one", extent, end=end, most=3)
        assert len(pieces) <= 3
        for piece in pieces:
            assert 0 < piece.length <= PIECE_BYTES
            assert extent.end <= piece.offset < piece.end <= end


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskTier]:
    async with DiskTier.open(made_layout(tmp_path), KEYS) as tier:
        yield tier


def put_beginning(disk: DiskTier, sample: Sample) -> None:
    """The layer's first bytes are there already, so that only what is ahead comes from afar."""
    chunks = range(THERE_BYTES // CHUNK_BYTES)
    disk.partial(sample.indexed).write(chunks, sample.payload[:THERE_BYTES])


async def read(ahead: ReadAhead, sample: Sample, extent: Extent) -> None:
    follows = len(sample.payload) - extent.end
    assert await ahead.read(sample.indexed, extent, follows=follows) == sample.bytes_of(extent)


async def test_the_next_bytes_are_on_the_disk_before_they_are_read_and_once(
    disk: DiskTier, sample: Sample
) -> None:
    far = MemoryTier(samples=[sample])
    async with trio.open_nursery() as nursery:
        ahead = ReadAhead(TierChain(disk, [far]), nursery)
        for extent in in_order(0, 2 << 20):
            await read(ahead, sample, extent)
            await wait_all_tasks_blocked()
        asked = len(far.asked)
        assert disk.missing(sample.indexed, range(3 << 20 >> 17)) == []
        await read(ahead, sample, Extent(2 << 20, STEP))
        assert far.asked[asked:] == []
        for extent in in_order((2 << 20) + STEP, len(sample.payload)):
            await read(ahead, sample, extent)
    fetched = [chunk for extent in far.asked for chunk in extent.chunks()]
    assert sorted(fetched) == list(range(sample.indexed.index.chunk_count))


async def test_several_pieces_are_on_their_way_at_once_and_their_number_is_bounded(
    disk: DiskTier, sample: Sample
) -> None:
    put_beginning(disk, sample)
    gate = trio.Event()
    far = MemoryTier(samples=[sample], gate=gate)
    async with trio.open_nursery() as nursery:
        ahead = ReadAhead(TierChain(disk, [far]), nursery)
        for extent in in_order(0, THERE_BYTES):
            await read(ahead, sample, extent)
            await wait_all_tasks_blocked()
        assert 1 < far.reading <= MAX_PIECES
        assert {one.length for one in far.asked} == {PIECE_BYTES}
        gate.set()


async def test_what_does_not_come_ahead_fails_no_reader(disk: DiskTier, sample: Sample) -> None:
    put_beginning(disk, sample)
    far = MemoryTier(samples=[sample])
    far.fails = [errors.RegistryUnavailable("planted"), KeyError("a bug")]
    async with trio.open_nursery() as nursery:
        ahead = ReadAhead(TierChain(disk, [far]), nursery)
        for extent in in_order(0, THERE_BYTES):
            await read(ahead, sample, extent)
            await wait_all_tasks_blocked()
        assert far.fails == []  # the faults were met, ahead
        for extent in in_order(THERE_BYTES, len(sample.payload)):
            await read(ahead, sample, extent)
