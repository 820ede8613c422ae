"""The last tier against a real registry: one download a layer and node, all of it verified."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.partial import fill_lock
from clipfs.tiers.settings import TierHooks
from clipfs.tiers.stack import Tiers
from clipfs.tiers.tier import Extent
from tests.support.damage import flipped
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import opened_tiers

EXTENTS = [Extent(first * CHUNK_BYTES + 3, 1000) for first in range(0, 130, 13)]


async def read_all(tiers: Tiers, sample: Sample) -> None:
    """All of EXTENTS at once, each compared."""

    async def read(extent: Extent) -> None:
        assert await tiers.chain.read(sample.indexed, extent) == sample.bytes_of(extent)

    async with trio.open_nursery() as nursery:
        for extent in EXTENTS:
            nursery.start_soon(read, extent)


def downloads(registry: RegistryServer, name: str, sample: Sample) -> int:
    """How often the whole blob was asked for."""
    path = f"/v2/{name}/blobs/{sample.layer.digest}"
    return registry.requests().count(("GET", path, 200))


async def test_readers_of_a_cold_layer_share_one_download(
    sample: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    reference = sample.push(registry.address, "tiers/shared:1")
    async with opened_tiers(tmp_path, reference) as tiers:
        tiers.disk.save_index(sample.layer, sample.indexed.index)
        await read_all(tiers, sample)
        await tiers.registry.complete(sample.indexed)
    assert downloads(registry, "tiers/shared", sample) == 1
    assert (tmp_path / "cache" / sample.key).read_bytes() == sample.payload


async def test_two_mounts_of_one_node_share_one_download(
    sample: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    reference = sample.push(registry.address, "tiers/node:1")
    async with opened_tiers(tmp_path, reference) as one, opened_tiers(tmp_path, reference) as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.chain.load_index, sample.layer)
            nursery.start_soon(two.chain.load_index, sample.layer)
        for tiers in (one, two):
            await read_all(tiers, sample)
    assert downloads(registry, "tiers/node", sample) == 1


async def test_two_mounts_of_one_node_share_one_fill(
    sample: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    reference = sample.push(registry.address, "tiers/fill:1")
    async with opened_tiers(tmp_path, reference) as one, opened_tiers(tmp_path, reference) as two:
        one.disk.save_index(sample.layer, sample.indexed.index)
        async with trio.open_nursery() as nursery:
            for tiers in (one, two):
                nursery.start_soon(read_all, tiers, sample)
                nursery.start_soon(tiers.registry.complete, sample.indexed)
    assert downloads(registry, "tiers/fill", sample) == 1


async def test_a_first_pass_is_told_to_whoever_wants_to_store_it(
    image: str, sample: Sample, tmp_path: Path
) -> None:
    filled: list[str] = []
    received: list[int] = []
    hooks = TierHooks(
        on_filled=lambda layer: filled.append(layer.cache_key),
        on_download=received.append,
    )
    with capture_logs() as lines:
        async with opened_tiers(tmp_path, image, hooks=hooks) as tiers:
            await tiers.chain.load_index(sample.layer)
    assert filled == [sample.key]
    assert sum(received) == sample.layer.size
    assert [line["event"] for line in lines if line.get("cache_key") == sample.key] == [
        "OCI CACHE MISS - downloading and decompressing layer from registry",
        "Layer decompressed and cached to disk",
    ]


async def test_an_index_that_does_not_verify_is_told_once_however_long_another_process_takes(
    image: str, sample: Sample, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened_tiers(tmp_path, image) as tiers:
        layout = tiers.disk.layout
        layout.layer_index(sample.key).write_bytes(b"garbage")
        with capture_logs() as lines, fill_lock(layout, sample.key), trio.move_on_after(10):
            await tiers.chain.load_index(sample.layer)
    warned = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert warned == ["layer index does not verify, it is made again"]


def flip_middle(blob: Path) -> None:
    data = blob.read_bytes()
    blob.write_bytes(flipped(data, len(data) // 2))


@pytest.mark.parametrize("indexed", [False, True], ids=["first pass", "fill"])
@pytest.mark.parametrize(
    ("tag", "damage"),
    [
        pytest.param("flipped", flip_middle, id="one bit"),
        pytest.param("cut", lambda blob: os.truncate(blob, 100_000), id="cut short"),
    ],
)
async def test_a_blob_that_is_not_the_manifests_is_never_in_the_cache(
    tag: str,
    damage: Callable[[Path], object],
    indexed: bool,
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    sample = make_sample(tmp_path / "tar", content_bytes=2 << 20, seed=int(indexed) + 7)
    reference = sample.push(registry.address, f"tiers/damaged:{tag}-{int(indexed)}")
    blob = blob_file(registry, sample)
    whole = blob.read_bytes()
    damage(blob)
    try:
        async with opened_tiers(tmp_path / "root", reference) as tiers:
            if indexed:
                tiers.disk.save_index(sample.layer, sample.indexed.index)
                last = Extent(len(sample.payload) - 10, 10)
                with pytest.raises((errors.CorruptImage, errors.RegistryUnavailable)):
                    await tiers.chain.read(sample.indexed, last)
            else:
                with pytest.raises((errors.CorruptImage, errors.RegistryUnavailable)):
                    await tiers.chain.load_index(sample.layer)
    finally:
        blob.write_bytes(whole)
    assert list((tmp_path / "root/cache").iterdir()) == []
    assert (tmp_path / "root/index" / f"{sample.key}.v1.toc").exists() is indexed


async def test_a_registry_that_mends_itself_is_read_again_after_a_failed_fill(
    registry: RegistryServer, tmp_path: Path
) -> None:
    sample = make_sample(tmp_path / "tar", content_bytes=2 << 20, seed=11)
    reference = sample.push(registry.address, "tiers/mended:1")
    blob = blob_file(registry, sample)
    whole = blob.read_bytes()
    flip_middle(blob)
    last = Extent(len(sample.payload) - 10, 10)
    async with opened_tiers(tmp_path / "root", reference) as tiers:
        tiers.disk.save_index(sample.layer, sample.indexed.index)
        with pytest.raises(errors.CorruptImage):
            await tiers.chain.read(sample.indexed, last)
        blob.write_bytes(whole)
        assert await tiers.chain.read(sample.indexed, last) == sample.bytes_of(last)


def blob_file(registry: RegistryServer, sample: Sample) -> Path:
    """Where the registry keeps the sample's blob; it believes its own disk."""
    hexes = sample.layer.digest.partition(":")[2]
    return registry.log.parent.joinpath(
        "data/docker/registry/v2/blobs/sha256", hexes[:2], hexes, "data"
    )
