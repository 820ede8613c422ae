"""Layers that another node brings now, between real parts: one download for the whole cluster."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.layer.origin import record_name
from clipfs.layer.sealed_index import seal_index
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import Progress
from clipfs.tiers.pages import PAGE_BYTES, page_key
from clipfs.tiers.stack import node_name
from clipfs.tiers.tier import Extent
from tests.support.content import READ_TOKEN, TOKEN, ContentServer
from tests.support.counting_registry import counting_registry
from tests.support.recording_proxy import recording_proxy
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, Counted, made_layout, opened_tiers, store_sample
from tests.support.wait import wait_for

SEEDS = itertools.count(5000)
CACHE_MISS = "OCI CACHE MISS - downloading and decompressing layer from registry"


@pytest.fixture
def own(tmp_path: Path) -> Sample:
    """A layer of two pages that nobody knows."""
    return make_sample(tmp_path / "tar", content_bytes=9 << 20, seed=next(SEEDS))


@pytest.fixture
def own_image(own: Sample, registry: RegistryServer) -> str:
    return own.push(registry.address, f"tiers/shared-{own.key[-8:]}:1")


@pytest.fixture
async def cache(content_server: ContentServer) -> AsyncIterator[Replicas]:
    """As another node has it."""
    async with Replicas.open([content_server.url], token=TOKEN) as client:
        yield client


async def claim_and_publish(cache: Replicas, sample: Sample) -> None:
    """What a node has done that has passed over the layer, and stored none of its pages yet."""
    await cache.claim(sample.key, "another", Progress(downloaded_bytes=1))
    sealed = seal_index(sample.indexed.index, sample.layer, KEYS)
    await cache.put(f"{sample.key}.v1.toc", sealed)


async def test_a_page_that_another_node_is_about_to_store_is_waited_for(
    own: Sample, own_image: str, cache: Replicas, content_server: ContentServer, tmp_path: Path
) -> None:
    await claim_and_publish(cache, own)
    counted = Counted()
    extents = [Extent(0, 1000), Extent(PAGE_BYTES - 5, 10), Extent(len(own.payload) - 9, 9)]
    came: list[Extent] = []
    async with opened_tiers(
        tmp_path / "B", own_image, cache_url=content_server.url, hooks=counted.hooks
    ) as tiers:
        await tiers.chain.load_index(own.layer)

        async def read(extent: Extent) -> None:
            assert await tiers.chain.read(own.indexed, extent) == own.bytes_of(extent)
            came.append(extent)

        async with trio.open_nursery() as nursery:
            for extent in extents:
                nursery.start_soon(read, extent)
            await cache.put(page_key(own.key, 0), own.payload[:PAGE_BYTES])
            await trio.to_thread.run_sync(wait_for, lambda: came)
            assert came == extents[:1]
            await cache.put(page_key(own.key, 1), own.payload[PAGE_BYTES:])
    assert len(came) == 3
    assert not counted.bytes["registry"]


async def test_a_layer_whose_holder_gives_up_before_its_pages_are_there_is_downloaded_once(
    own: Sample, own_image: str, cache: Replicas, content_server: ContentServer,
    registry: RegistryServer, tmp_path: Path,
) -> None:  # fmt: skip
    await claim_and_publish(cache, own)
    name = own_image.partition("/")[2]
    with counting_registry(registry.address) as counting:

        async def read(number: int) -> None:
            root, image = tmp_path / f"node-{number}", f"{counting.address}/{name}"
            async with opened_tiers(root, image, cache_url=content_server.url) as tiers:
                await tiers.chain.load_index(own.layer)
                for extent in [Extent(0, 1000), Extent(len(own.payload) - 9, 9)]:
                    assert await tiers.chain.read(own.indexed, extent) == own.bytes_of(extent)
                await tiers.complete(own.indexed)
                assert tiers.storer is not None
                await tiers.storer.drain()

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(read, number)
            await trio.sleep(0.2)
            await cache.release(own.key, "another")
    assert counting.sent[own.layer.digest] == own.layer.size


async def test_a_pass_that_fails_gives_its_claim_back_at_once(
    own: Sample, cache: Replicas, content_server: ContentServer, registry: RegistryServer,
    tmp_path: Path,
) -> None:  # fmt: skip
    image = f"{registry.address}/tiers/nothing-like-this:1"
    async with opened_tiers(tmp_path / "A", image, cache_url=content_server.url) as tiers:
        with pytest.raises(errors.ImageNotFound):
            await tiers.chain.load_index(own.layer)
        assert (await cache.claim(own.key, "another", Progress())).holder == "another"
        tiers.disk.save_index(own.layer, own.indexed.index)
        await cache.release(own.key, "another")
        with pytest.raises(errors.ImageNotFound):
            await tiers.chain.read(own.indexed, Extent(0, 100))
        assert (await cache.claim(own.key, "another", Progress())).holder == "another"
    await cache.release(own.key, "another")


async def test_a_mount_that_follows_a_killed_one_of_its_node_waits_for_no_claim(
    own: Sample, own_image: str, cache: Replicas, content_server: ContentServer, tmp_path: Path
) -> None:
    dead = f"{node_name(made_layout(tmp_path / 'A'))}.killed"
    await cache.claim(own.key, dead, Progress())
    with capture_logs() as lines:
        async with opened_tiers(tmp_path / "A", own_image, cache_url=content_server.url) as tiers:
            await tiers.chain.load_index(own.layer)
            assert tiers.storer is not None
            await tiers.storer.drain()
    assert [line for line in lines if line["event"].startswith("another node")] == []
    assert (await cache.claim(own.key, "another", Progress())).holder == "another"
    await cache.release(own.key, "another")


async def test_origin_and_index_go_before_the_pages_and_the_claim_is_kept_until_they_are_there(
    own: Sample, own_image: str, cache: Replicas, content_server: ContentServer, tmp_path: Path
) -> None:
    with recording_proxy(content_server.port) as recorder:
        async with opened_tiers(tmp_path / "A", own_image, cache_url=recorder.url) as tiers:
            await tiers.chain.load_index(own.layer)
            assert (await cache.claim(own.key, "another", Progress())).holder != "another"
            assert tiers.storer is not None
            await tiers.storer.drain()
            assert (await cache.claim(own.key, "another", Progress())).holder == "another"
    stored = [key.removeprefix(own.key) for method, key, _ in recorder.exchanges if method == "PUT"]
    host = own_image.partition("/")[0]
    assert stored[:2] == [record_name("", host), ".v1.toc"]  # who finds the index finds the origin
    assert sorted(stored[2:]) == ["/000000", "/000001"]
    await cache.release(own.key, "another")


async def test_a_layer_whose_index_is_stored_and_a_page_is_not_is_stored_again(
    own: Sample, own_image: str, cache: Replicas, content_server: ContentServer, tmp_path: Path
) -> None:
    async with opened_tiers(tmp_path / "A", own_image) as tiers:
        await tiers.chain.load_index(own.layer)
    await store_sample(content_server.url, own)
    lost = page_key(own.key, 1)
    etag = content_server.ask("HEAD", lost).headers["etag"]
    assert content_server.ask("DELETE", lost, headers={"If-Match": etag}).status == 204
    async with opened_tiers(tmp_path / "A", own_image, cache_url=content_server.url) as tiers:
        assert tiers.storer is not None
        await tiers.storer.store_missing([own.indexed])
        await tiers.storer.drain()
    assert await cache.get(page_key(own.key, 1)) is not None


@pytest.mark.parametrize("lack", ["read-only", "down"])
async def test_where_nothing_can_be_claimed_all_download_with_one_warning(
    lack: str, own: Sample, own_image: str, content_server: ContentServer, tmp_path: Path
) -> None:
    url = content_server.url if lack == "read-only" else "http://127.0.0.1:1"
    for name in ("A", "B"):
        with capture_logs() as lines:
            async with opened_tiers(
                tmp_path / name, own_image, cache_url=url, token=READ_TOKEN
            ) as tiers:
                await tiers.chain.load_index(own.layer)
                assert await tiers.chain.read(own.indexed, Extent(5, 100)) == own.payload[5:105]
                if lack == "read-only":  # the store says it, once
                    assert tiers.storer is not None
                    await tiers.storer.drain()
        assert CACHE_MISS in [line["event"] for line in lines]
        assert len([line for line in lines if line["log_level"] == "warning"]) == 1
