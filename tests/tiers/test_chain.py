"""The chain: nearest first, each chunk fetched once, on disk before it is served.

One module, though long: its tests share tiers that hold, refuse and count what they are asked.
"""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.partial import Partial
from clipfs.tiers.chain import TierChain
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.tier import Extent, Payload
from tests.support.memory_tier import MemoryTier
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, made_layout


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A layer of eight chunks and a bit."""
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=(1 << 20) + 5)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskTier]:
    async with DiskTier.open(made_layout(tmp_path), KEYS) as tier:
        yield tier


def chunk(first: int, count: int = 1) -> Extent:
    return Extent(first * CHUNK_BYTES, count * CHUNK_BYTES)


async def read_all(
    chain: TierChain,
    sample: Sample,
    extents: list[Extent],
    meanwhile: Callable[[], Awaitable[None]],
) -> list[Payload]:
    """Reads of all extents at once, begun in their order; meanwhile runs when all wait."""
    found: dict[int, Payload] = {}

    async def read(number: int, extent: Extent) -> None:
        found[number] = await chain.read(sample.indexed, extent)

    async with trio.open_nursery() as nursery:
        for number, extent in enumerate(extents):
            nursery.start_soon(read, number, extent)
            await wait_all_tasks_blocked()
        await meanwhile()
    return [found[number] for number in range(len(extents))]


async def test_the_nearest_tier_that_has_the_bytes_is_the_only_one_asked(
    disk: DiskTier, small: Sample
) -> None:
    near, last = MemoryTier(samples=[small]), MemoryTier(samples=[small])
    chain = TierChain(disk, [near, last])
    assert await chain.read(small.indexed, chunk(1)) == small.bytes_of(chunk(1))
    assert (len(near.asked), len(last.asked)) == (1, 0)
    assert await chain.read(small.indexed, chunk(1)) == small.bytes_of(chunk(1))
    assert (len(near.asked), len(last.asked)) == (1, 0)


async def test_a_miss_hands_over_to_the_next_tier(disk: DiskTier, small: Sample) -> None:
    near, last = MemoryTier(samples=[]), MemoryTier(samples=[small])
    chain = TierChain(disk, [near, last])
    assert await chain.read(small.indexed, chunk(2)) == small.bytes_of(chunk(2))
    assert (len(near.asked), len(last.asked)) == (1, 1)


async def test_bytes_that_no_tier_has_are_an_error_that_may_pass(
    disk: DiskTier, small: Sample
) -> None:
    with pytest.raises(errors.RegistryUnavailable, match=small.layer.digest):
        await TierChain(disk, [MemoryTier(samples=[])]).read(small.indexed, chunk(0))
    with pytest.raises(errors.RegistryUnavailable, match=small.layer.digest):
        await TierChain(disk, [MemoryTier(samples=[])]).load_index(small.layer)


async def test_an_index_from_a_far_tier_is_kept_on_disk(disk: DiskTier, small: Sample) -> None:
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    assert await chain.load_index(small.layer) == small.indexed.index
    assert await disk.load_index(small.layer) == small.indexed.index


async def test_a_part_of_a_chunk_brings_the_whole_chunk_and_no_more(
    disk: DiskTier, small: Sample
) -> None:
    far = MemoryTier(samples=[small])
    part = Extent(3 * CHUNK_BYTES + 100, 50)
    assert await TierChain(disk, [far]).read(small.indexed, part) == small.bytes_of(part)
    assert far.asked == [chunk(3)]


async def test_only_what_is_missing_is_fetched(disk: DiskTier, small: Sample) -> None:
    far = MemoryTier(samples=[small])
    chain = TierChain(disk, [far])
    await chain.read(small.indexed, chunk(2))
    await chain.read(small.indexed, chunk(5))
    everything = Extent(0, len(small.payload))
    assert await chain.read(small.indexed, everything) == small.payload
    last = small.indexed.extent_of(range(6, 9))
    assert far.asked == [chunk(2), chunk(5), chunk(0, 2), chunk(3, 2), last]


async def test_a_chunk_is_fetched_once_however_many_readers_want_it(
    disk: DiskTier, small: Sample
) -> None:
    gate = trio.Event()
    far = MemoryTier(samples=[small], gate=gate)

    async def meanwhile() -> None:
        assert far.reading == 1
        gate.set()

    wanted = [chunk(4)] * 20
    found = await read_all(TierChain(disk, [far]), small, wanted, meanwhile)
    assert found == [small.bytes_of(chunk(4))] * 20
    assert far.asked == [chunk(4)]


async def test_readers_whose_chunks_overlap_fetch_none_of_them_twice(
    disk: DiskTier, small: Sample
) -> None:
    gate = trio.Event()
    far = MemoryTier(samples=[small], gate=gate)

    async def meanwhile() -> None:
        gate.set()

    # the second wants what lies on both sides of the first, the third one side of that
    wanted = [chunk(1), chunk(0, 3), chunk(2), chunk(0, 5), Extent(0, len(small.payload))]
    found = await read_all(TierChain(disk, [far]), small, wanted, meanwhile)
    assert found == [small.bytes_of(extent) for extent in wanted]
    fetched = [number for extent in far.asked for number in extent.chunks()]
    assert sorted(fetched) == list(range(9))


async def test_what_neighbours_want_at_the_same_moment_is_one_request(
    disk: DiskTier, small: Sample
) -> None:
    far = MemoryTier(samples=[small])
    chain, found = TierChain(disk, [far]), list[bool]()

    async def read(extent: Extent) -> None:
        found.append(await chain.read(small.indexed, extent) == small.bytes_of(extent))

    async with trio.open_nursery() as nursery:
        for number in (5, 3, 2, 4, 0):  # one apart
            nursery.start_soon(read, chunk(number))
    assert found == [True] * 5
    assert sorted(far.asked, key=lambda one: one.offset) == [chunk(0), chunk(2, 4)]


async def test_a_neighbour_that_is_on_its_way_or_on_disk_is_not_asked_for_again(
    disk: DiskTier, small: Sample
) -> None:
    gate = trio.Event()
    far = MemoryTier(samples=[small])
    chain = TierChain(disk, [far])
    await chain.read(small.indexed, chunk(4))
    far.gate = gate

    async def meanwhile() -> None:
        gate.set()

    wanted = [chunk(2), chunk(3), chunk(2, 4)]
    found = await read_all(chain, small, wanted, meanwhile)
    assert found == [small.bytes_of(extent) for extent in wanted]
    assert far.asked == [chunk(4), chunk(2), chunk(3), chunk(5)]


async def test_a_reader_that_fails_wakes_the_others_and_one_takes_over(
    disk: DiskTier, small: Sample
) -> None:
    gate = trio.Event()
    far = MemoryTier(samples=[small], gate=gate, fails=[errors.CorruptImage("planted")])
    chain = TierChain(disk, [far])
    failed: list[Exception] = []
    found: list[Payload] = []

    async def read() -> None:
        try:
            found.append(await chain.read(small.indexed, chunk(4)))
        except errors.CorruptImage as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        gate.set()
    assert len(failed) == 1
    assert found == [small.bytes_of(chunk(4))] * 4
    assert far.asked == [chunk(4)] * 2


async def test_a_reader_that_is_cancelled_wakes_the_others_and_one_takes_over(
    disk: DiskTier, small: Sample
) -> None:
    gate = trio.Event()
    far = MemoryTier(samples=[small], gate=gate)
    chain = TierChain(disk, [far])
    first = trio.CancelScope()

    async def read_until_cancelled() -> None:
        with first:
            await chain.read(small.indexed, chunk(4))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_until_cancelled)
        await wait_all_tasks_blocked()

        async def meanwhile() -> None:
            first.cancel()
            await wait_all_tasks_blocked()
            assert far.reading == 1
            gate.set()

        found = await read_all(chain, small, [chunk(4)] * 3, meanwhile)
    assert found == [small.bytes_of(chunk(4))] * 3
    assert far.asked == [chunk(4)] * 2


async def test_a_chunk_is_in_the_partial_file_before_it_is_served(
    disk: DiskTier, small: Sample
) -> None:
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    await chain.read(small.indexed, chunk(3))
    assert disk.missing(small.indexed, range(9)) == [range(3), range(4, 9)]
    on_disk = disk.layout.partial_payload(small.key).read_bytes()
    assert on_disk[3 * CHUNK_BYTES : 4 * CHUNK_BYTES] == small.bytes_of(chunk(3))


class Refusing:
    """A disk that refuses to write whole chunks while `number` is set, as the kernel would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number: int | None = errno.ENOSPC
        write = Partial.write

        def refuse(partial: Partial, chunks: range, data: Payload) -> None:
            if self.number is not None:
                raise OSError(self.number, "planted")
            write(partial, chunks, data)

        monkeypatch.setattr(Partial, "write", refuse)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_what_the_disk_refuses_is_served_from_memory_and_stored_once_it_takes_it(
    number: int, disk: DiskTier, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(monkeypatch)
    refusing.number = number
    far = MemoryTier(samples=[small])
    chain = TierChain(disk, [far])
    with capture_logs() as lines:
        for extent in (chunk(3), Extent(3 * CHUNK_BYTES + 100, CHUNK_BYTES), chunk(3)):
            assert await chain.read(small.indexed, extent) == small.bytes_of(extent)
        assert disk.missing(small.indexed, range(9)) == [range(9)]
        refusing.number = None
        assert await chain.read(small.indexed, chunk(3)) == small.bytes_of(chunk(3))
    assert disk.missing(small.indexed, range(9)) == [range(3), range(4, 9)]
    assert [line["event"] for line in lines if line["log_level"] != "debug"] == [
        "the disk refuses, reads go on without it",
        "the disk takes bytes again",
    ]
    assert far.asked == [chunk(3), chunk(3, 2), chunk(3), chunk(3)]


async def test_what_the_disk_refuses_is_fetched_once_for_all_who_wait_for_it(
    disk: DiskTier, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusing(monkeypatch)
    gate = trio.Event()
    far = MemoryTier(samples=[small], gate=gate)

    async def meanwhile() -> None:
        gate.set()

    size = len(small.payload)
    wanted = [Extent(0, size), Extent(5, size - 5), Extent(1, size - 2)]  # the same chunks
    found = await read_all(TierChain(disk, [far]), small, wanted, meanwhile)
    assert found == [small.bytes_of(extent) for extent in wanted]
    fetched = [number for extent in far.asked for number in extent.chunks()]
    assert sorted(fetched) == list(range(9))


@given(
    stored=st.sets(st.integers(0, 8)),
    offset=st.integers(0, (1 << 20) + 5),
    length=st.integers(1, 1 << 20),
)
@settings(deadline=None)
def test_bytes_from_disk_and_from_memory_make_one_read_however_they_lie(
    small: Sample,
    tmp_path_factory: pytest.TempPathFactory,
    stored: set[int],
    offset: int,
    length: int,
) -> None:
    async def read() -> None:
        layout = made_layout(tmp_path_factory.mktemp("root"))
        async with DiskTier.open(layout, KEYS) as disk:
            chain = TierChain(disk, [MemoryTier(samples=[small])])
            for number in stored - {8}:
                await chain.read(small.indexed, chunk(number))
            with pytest.MonkeyPatch.context() as patch:
                Refusing(patch)
                extent = Extent(offset, min(length, len(small.payload) - offset))
                assert await chain.read(small.indexed, extent) == small.bytes_of(extent)

    trio.run(read)


async def test_a_disk_without_room_for_a_chunk_map_fails_no_read(
    disk: DiskTier, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    monkeypatch.setattr(Partial, "_open_map", refuses)
    open_before = len(os.listdir("/proc/self/fd"))
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    assert await chain.read(small.indexed, chunk(3)) == small.bytes_of(chunk(3))
    assert len(os.listdir("/proc/self/fd")) == open_before


async def test_an_index_that_a_full_disk_cannot_keep_is_an_error_that_says_so(
    disk: DiskTier, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    monkeypatch.setattr(os, "pwrite", refuses)
    with pytest.raises(errors.DiskFull, match="planted; free space"):
        await TierChain(disk, [MemoryTier(samples=[small])]).load_index(small.layer)
    assert os.listdir(disk.layout.index) == []


async def test_the_last_missing_chunk_makes_the_payload_complete(
    tmp_path: Path, small: Sample
) -> None:
    layout = made_layout(tmp_path)
    async with DiskTier.open(layout, KEYS) as disk:
        chain = TierChain(disk, [MemoryTier(samples=[small])])
        await chain.read(small.indexed, chunk(0, 8))
        assert not layout.payload(small.key).exists()
        await chain.read(small.indexed, Extent(len(small.payload) - 1, 1))
    assert layout.payload(small.key).read_bytes() == small.payload
    assert layout.payload(small.key).stat().st_mode & 0o777 == 0o400
    assert list(layout.partial.iterdir()) == []


async def test_two_readers_that_complete_a_layer_together_complete_it_once(
    tmp_path: Path, small: Sample
) -> None:
    layout = made_layout(tmp_path)
    gate = trio.Event()
    async with DiskTier.open(layout, KEYS) as disk:
        chain = TierChain(disk, [MemoryTier(samples=[small], gate=gate)])

        async def meanwhile() -> None:
            gate.set()

        halves = [chunk(0, 4), Extent(4 * CHUNK_BYTES, len(small.payload) - 4 * CHUNK_BYTES)]
        found = await read_all(chain, small, halves, meanwhile)
        assert found == [small.bytes_of(half) for half in halves]
    assert layout.payload(small.key).read_bytes() == small.payload
    assert list(layout.partial.iterdir()) == []


async def test_a_layer_is_completed_from_the_nearest_tier_and_only_with_what_it_lacks(
    disk: DiskTier, small: Sample
) -> None:
    near, last = MemoryTier(samples=[small]), MemoryTier(samples=[small])
    chain = TierChain(disk, [near, last])
    await chain.read(small.indexed, chunk(2))
    await chain.complete(small.indexed)
    assert disk.layout.payload(small.key).read_bytes() == small.payload
    asked = [number for extent in near.asked for number in extent.chunks()]
    assert sorted(asked) == list(range(small.indexed.index.chunk_count))
    assert last.asked == []
    await chain.complete(small.indexed)
    assert len(near.asked) == 3


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, errors.DiskFull), (errno.EIO, errors.NodeFault)],
    ids=["full", "broken"],
)
async def test_a_layer_that_the_disk_refuses_is_not_completed_and_the_error_says_why(
    number: int,
    kind: type[errors.ClipError],
    disk: DiskTier,
    small: Sample,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusing = Refusing(monkeypatch)
    refusing.number = number
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    with pytest.raises(kind, match="planted"):
        await chain.complete(small.indexed)
    refusing.number = None
    await chain.complete(small.indexed)
    assert disk.layout.payload(small.key).read_bytes() == small.payload


async def test_a_layer_that_no_tier_has_is_not_completed(disk: DiskTier, small: Sample) -> None:
    chain = TierChain(disk, [MemoryTier(samples=[])])
    with pytest.raises(errors.RegistryUnavailable):
        await chain.complete(small.indexed)
    assert not disk.layout.payload(small.key).exists()


async def test_nobody_waits_for_the_disk_to_have_an_index_that_came_from_afar(
    disk: DiskTier, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int) -> None:
        raise AssertionError(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", refused)
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    assert await chain.load_index(small.layer) == small.indexed.index
    assert await disk.load_index(small.layer) == small.indexed.index


@pytest.mark.parametrize("left", [b"", bytes(1000)], ids=["empty", "zeros"])
async def test_an_index_that_a_power_cut_has_torn_is_had_again(
    left: bytes, disk: DiskTier, small: Sample
) -> None:
    chain = TierChain(disk, [MemoryTier(samples=[small])])
    await chain.load_index(small.layer)
    disk.layout.layer_index(small.key).write_bytes(left)
    with capture_logs() as lines:
        assert await chain.load_index(small.layer) == small.indexed.index
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
        "layer index does not verify, it is made again"
    ]
    assert await disk.load_index(small.layer) == small.indexed.index
