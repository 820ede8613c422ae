"""The disk tier: complete payloads, partial ones, and how the one becomes the other."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import Layout
from clipfs.layer.partial import Partial
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import seal_index
from clipfs.tiers.chain import TierChain
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.tier import Extent
from tests.support.damage import DAMAGES, Damage, refusing
from tests.support.memory_tier import MemoryTier
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, NEW, OLD, made_layout


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=300_000)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path)


def all_chunks(sample: Sample) -> range:
    return range(sample.indexed.index.chunk_count)


async def test_readers_are_served_while_a_payload_is_made_durable(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, on_thread = threading.Event(), threading.Event()
    fsync = os.fdatasync

    def slow_fsync(fd: int) -> None:
        on_thread.set()
        assert threading.current_thread() is not threading.main_thread()
        assert may_go_on.wait(10)
        fsync(fd)

    async with DiskTier.open(layout, KEYS) as disk:
        disk.partial(small.indexed)
        monkeypatch.setattr(os, "fdatasync", slow_fsync)
        disk.write(small.indexed, all_chunks(small), small.payload)
        extent = Extent(0, 1000)
        assert await disk.read(small.indexed, extent) == small.bytes_of(extent)
        await trio.to_thread.run_sync(on_thread.wait)
        assert await disk.read(small.indexed, extent) == small.bytes_of(extent)
        assert not layout.payload(small.key).exists()
        may_go_on.set()
    assert layout.payload(small.key).read_bytes() == small.payload


async def test_a_disk_that_cannot_complete_a_payload_fails_no_reader(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: Partial) -> None:
        raise OSError(28, "planted: no space left on device")

    monkeypatch.setattr(Partial, "promote", refuses)
    with capture_logs() as lines:
        async with DiskTier.open(layout, KEYS) as disk:
            disk.write(small.indexed, all_chunks(small), small.payload)
            extent = Extent(0, 1000)
            assert await disk.read(small.indexed, extent) == small.bytes_of(extent)
    warning = next(line for line in lines if line["log_level"] == "warning")
    assert "planted" in warning["error"]


async def test_chunks_that_an_fsync_lost_are_missing_and_whoever_wants_the_payload_hears_why(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, failed = os.fdatasync, 0

    def fails_once(fd: int) -> None:
        nonlocal failed
        failed += 1
        if failed == 1:
            raise OSError(errno.EIO, "planted")
        fsync(fd)

    async with DiskTier.open(layout, KEYS) as disk:
        disk.partial(small.indexed)
        monkeypatch.setattr(os, "fdatasync", fails_once)
        for _ in range(2):  # two readers brought the last chunk
            disk.write(small.indexed, all_chunks(small), small.payload)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(errors.NodeFault, match=r"planted|lost"):
            await disk.promote(small.indexed)
        assert disk.missing(small.indexed, all_chunks(small)) == [all_chunks(small)]
        assert not layout.payload(small.key).exists()
        disk.write(small.indexed, all_chunks(small), small.payload)
        await disk.promote(small.indexed)
    assert layout.payload(small.key).read_bytes() == small.payload


async def test_a_partial_that_a_dead_process_left_complete_becomes_the_payload(
    layout: Layout, small: Sample
) -> None:
    with Partial(layout, small.key, payload_bytes=len(small.payload)) as left:
        left.write(all_chunks(small), small.payload)
    async with DiskTier.open(layout, KEYS) as disk:
        extent = Extent(10, 10)
        assert await disk.read(small.indexed, extent) == small.bytes_of(extent)
    assert layout.payload(small.key).read_bytes() == small.payload


async def test_two_processes_share_what_each_of_them_writes(layout: Layout, small: Sample) -> None:
    async with DiskTier.open(layout, KEYS) as one, DiskTier.open(layout, KEYS) as other:
        first = Extent(0, CHUNK_BYTES)
        one.write(small.indexed, range(1), small.bytes_of(first))
        assert other.missing(small.indexed, all_chunks(small)) == [range(1, 3)]
        assert await other.read(small.indexed, first) == small.bytes_of(first)
        rest = Extent(CHUNK_BYTES, len(small.payload) - CHUNK_BYTES)
        for disk in (one, other):
            disk.write(small.indexed, range(1, 3), small.bytes_of(rest))
        await one.promote(small.indexed)
        await other.promote(small.indexed)
        for disk in (one, other):
            assert await disk.read(small.indexed, rest) == small.bytes_of(rest)
    assert layout.payload(small.key).read_bytes() == small.payload
    assert list(layout.partial.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1, 299_999])
async def test_a_payload_of_the_wrong_length_is_set_aside_and_missed(
    length: int, layout: Layout, small: Sample
) -> None:
    layout.payload(small.key).write_bytes(small.payload[:length])
    async with DiskTier.open(layout, KEYS) as disk:
        assert await disk.read(small.indexed, Extent(0, 1)) is None
        assert disk.missing(small.indexed, all_chunks(small)) == [all_chunks(small)]
    assert not layout.payload(small.key).exists()


async def test_a_payload_that_shrinks_under_a_reader_is_an_error_not_a_short_read(
    layout: Layout, small: Sample
) -> None:
    path = layout.payload(small.key)
    path.write_bytes(small.payload)
    async with DiskTier.open(layout, KEYS) as disk:
        assert disk.has_payload(small.indexed)
        os.truncate(path, 1000)
        with pytest.raises(errors.NodeFault, match="shorter"):
            await disk.read(small.indexed, Extent(0, 2000))


@pytest.mark.parametrize(
    ("signer", "verifier", "found"),
    [
        pytest.param((b"one",), (b"one",), True, id="the same key"),
        pytest.param((b"old",), (b"new", b"old"), True, id="an older key"),
        pytest.param((b"one",), (b"other",), False, id="another cluster's key"),
    ],
)
async def test_an_index_is_believed_if_one_of_our_keys_signed_it(
    signer: tuple[bytes, ...],
    verifier: tuple[bytes, ...],
    found: bool,
    layout: Layout,
    small: Sample,
) -> None:
    async with DiskTier.open(layout, KeyRing(signer)) as disk:
        disk.save_index(small.layer, small.indexed.index)
    async with DiskTier.open(layout, KeyRing(verifier)) as disk:
        index = await disk.load_index(small.layer)
    assert (index == small.indexed.index) is found
    if found:  # it is signed with the first key from now on
        sealed = seal_index(small.indexed.index, small.layer, KeyRing(verifier[:1]))
        assert layout.layer_index(small.key).read_bytes() == sealed


async def test_a_disk_that_has_no_room_for_a_new_signature_gives_the_index_all_the_same(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> int:
        raise OSError(errno.ENOSPC, "planted")

    async with DiskTier.open(layout, OLD) as disk:
        disk.save_index(small.layer, small.indexed.index)
    with capture_logs() as lines:
        async with DiskTier.open(layout, NEW) as disk:
            with monkeypatch.context() as full:
                full.setattr(os, "pwrite", refuses)
                assert await disk.load_index(small.layer) == small.indexed.index
            assert await disk.load_index(small.layer) == small.indexed.index
    told = [line["error"] for line in lines if line["log_level"] == "warning"]
    assert len(told) == 1
    assert "planted" in told[0]
    sealed = seal_index(small.indexed.index, small.layer, NEW)
    assert layout.layer_index(small.key).read_bytes() == sealed


async def test_the_index_of_another_layer_is_not_believed_under_this_name(
    layout: Layout, small: Sample, tmp_path: Path
) -> None:
    other = make_sample(tmp_path / "other", content_bytes=1000, seed=1)
    sealed = seal_index(other.indexed.index, other.layer, KEYS)
    layout.layer_index(small.key).write_bytes(sealed)
    async with DiskTier.open(layout, KEYS) as disk:
        assert await disk.load_index(small.layer) is None


async def test_an_index_whose_payload_is_not_the_configs_is_not_believed(
    layout: Layout, small: Sample, tmp_path: Path
) -> None:
    other = make_sample(tmp_path / "other", content_bytes=1000, seed=1)
    sealed = seal_index(other.indexed.index, small.layer, KEYS)
    layout.layer_index(small.key).write_bytes(sealed)
    async with DiskTier.open(layout, KEYS) as disk:
        assert await disk.load_index(small.layer) is None


@pytest.mark.parametrize("damage", [*DAMAGES.values(), None], ids=[*DAMAGES, "EIO"])
async def test_a_payload_and_an_index_that_cannot_be_opened_are_missed(
    damage: Damage | None, layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.payload(small.key).write_bytes(small.payload)
    async with DiskTier.open(layout, KEYS) as disk:
        disk.save_index(small.layer, small.indexed.index)
    for path in (layout.payload(small.key), layout.layer_index(small.key)):
        if damage:
            damage(path)
        else:
            refusing(monkeypatch, path, errno.EIO)
    with capture_logs() as lines:
        async with DiskTier.open(layout, KEYS) as disk:
            assert await disk.load_index(small.layer) is None
            assert await disk.read(small.indexed, Extent(0, 1)) is None
            disk.save_index(small.layer, small.indexed.index)
            disk.write(small.indexed, all_chunks(small), small.payload)
    named = [line["path"] for line in lines if line["log_level"] == "warning"]
    assert named == [str(layout.layer_index(small.key)), str(layout.payload(small.key))]
    assert layout.payload(small.key).read_bytes() == small.payload


@pytest.mark.parametrize("which", ["partial_payload", "chunk_map"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_partial_that_is_no_file_begins_anew(
    damage: Damage, which: str, layout: Layout, small: Sample
) -> None:
    with Partial(layout, small.key, payload_bytes=len(small.payload)) as left:
        left.write(range(1), small.payload[:CHUNK_BYTES])
    damage(getattr(layout, which)(small.key))
    async with DiskTier.open(layout, KEYS) as disk:
        assert disk.missing(small.indexed, all_chunks(small)) == [all_chunks(small)]
        disk.write(small.indexed, all_chunks(small), small.payload)
    assert layout.payload(small.key).read_bytes() == small.payload


def failing_reads(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Have the disk fail to read what is now at path."""
    bad, preadv = os.stat(path).st_ino, os.preadv

    def reads(fd: int, *rest: Any) -> int:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, "planted")
        return preadv(fd, *rest)

    monkeypatch.setattr(os, "preadv", reads)


async def test_a_payload_that_the_disk_cannot_read_is_fetched_again_once(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layout.payload(small.key)
    path.write_bytes(small.payload)
    async with DiskTier.open(layout, KEYS) as disk:
        far = MemoryTier(samples=[small])
        chain = TierChain(disk, [far])
        failing_reads(monkeypatch, path)
        everything = Extent(0, len(small.payload))
        assert await chain.read(small.indexed, everything) == small.payload
        await disk.promote(small.indexed)
        assert disk.has_payload(small.indexed)
        failing_reads(monkeypatch, path)
        with pytest.raises(errors.NodeFault, match="planted"):
            await chain.read(small.indexed, everything)
        assert len(far.asked) == 1


async def test_a_payload_that_was_filled_here_and_cannot_be_read_any_more_is_fetched_again(
    layout: Layout, small: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, everything = layout.payload(small.key), Extent(0, len(small.payload))
    open_before = len(os.listdir("/proc/self/fd"))
    async with DiskTier.open(layout, KEYS) as disk:
        far = MemoryTier(samples=[small])
        chain = TierChain(disk, [far])
        await chain.complete(small.indexed)
        failing_reads(monkeypatch, path)
        assert await chain.read(small.indexed, everything) == small.payload
        assert len(far.asked) == 2
    assert path.read_bytes() == small.payload
    assert len(os.listdir("/proc/self/fd")) == open_before
