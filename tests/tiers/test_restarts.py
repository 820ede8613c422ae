"""Lazy reads while the content cache restarts: they wait, and no layer is fetched again."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from clipfs.tiers.content.reading import RESTART_S
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import page_key
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import TOKEN, key_of
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import SmallCache, small_cache
from tests.support.tier_stack import KEYS, store_sample


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=300_000)


@pytest.mark.parametrize(
    ("waits", "away_s", "is_read"),
    [
        pytest.param(True, RESTART_S - 1, True, id="lazy reads"),
        pytest.param(True, RESTART_S + 2, False, id="lazy reads, too long"),
        pytest.param(False, RESTART_S - 1, False, id="before the mount"),
    ],
)
async def test_a_read_waits_for_a_content_cache_that_restarts_once_there_is_a_mount(
    waits: bool, away_s: float, is_read: bool, small: Sample, autojump_clock: MockClock
) -> None:
    extent = Extent(1000, 200_000)
    async with small_cache() as cache:
        await store_sample(cache.url, small)
        async with Replicas.open([cache.url], token=TOKEN) as replicas:
            tier = ContentCacheTier(replicas, KEYS, waits=waits)
            assert await tier.load_index(small.layer) is not None
            await cache.stop()
            async with trio.open_nursery() as nursery:

                async def restart() -> None:
                    await trio.sleep(away_s)
                    await cache.start()

                nursery.start_soon(restart)
                data = await tier.read(small.indexed, extent)
    assert (data is not None) == is_read
    if data is not None:
        assert data == small.bytes_of(extent)


IDS = ("content-0", "content-1", "content-2")
EXTENT = Extent(1000, 200_000)


async def restarted(cache: SmallCache, away_s: float) -> None:
    await cache.stop()
    await trio.sleep(away_s)
    await cache.start()


@pytest.mark.parametrize("lost", ["the first copy", "the second copy"])
@pytest.mark.parametrize(
    ("waits", "away_s", "is_read"),
    [
        pytest.param(True, RESTART_S - 1, True, id="lazy reads"),
        pytest.param(True, RESTART_S + 2, False, id="lazy reads, too long"),
        pytest.param(False, RESTART_S - 1, False, id="before the mount"),
    ],
)
async def test_a_read_waits_for_the_only_copy_as_long_as_for_a_whole_content_cache(
    waits: bool, away_s: float, is_read: bool, lost: str, small: Sample, autojump_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        two = {one: await stack.enter_async_context(small_cache(one)) for one in IDS[:2]}
        order = [two[one] for one in in_order(page_key(small.key, 0), two)]
        empty, full = order if lost == "the first copy" else order[::-1]
        await store_sample(full.url, small)
        urls = [one.url for one in two.values()]
        replicas = await stack.enter_async_context(Replicas.open(urls, token=TOKEN))
        tier = ContentCacheTier(replicas, KEYS, waits=waits)
        assert await tier.load_index(small.layer) is not None
        assert not empty.objects
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restarted, full, away_s)
            await trio.sleep(0.1)
            data = await tier.read(small.indexed, EXTENT)
    assert data == (small.bytes_of(EXTENT) if is_read else None)


async def test_no_lazy_read_is_a_miss_while_replicas_are_rolled_one_of_which_lost_its_disk(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    layers = [make_sample(tmp_path / str(n), content_bytes=200_000, seed=n) for n in range(8)]
    missed: list[str] = []
    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(small_cache(one)) for one in IDS]
        urls = [one.url for one in three]
        replicas = await stack.enter_async_context(Replicas.open(urls, token=TOKEN))
        for layer in layers:
            stored = await store_layer(replicas, KEYS, layer.indexed, layer.tar)
            assert stored is Outcome.STORED
        assert all(one.asked_for("PUT /v1/objects") for one in three)
        three[0].objects.clear()
        tier = ContentCacheTier(replicas, KEYS, waits=True)

        async def read(layer: Sample) -> None:
            extent = Extent(1000, 100_000)
            while True:
                if await tier.read(layer.indexed, extent) != layer.bytes_of(extent):
                    missed.append(layer.key)
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            for layer in layers:
                nursery.start_soon(read, layer)
            for one in three:
                await trio.sleep(1)
                await restarted(one, RESTART_S - 1)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert not missed


async def test_a_page_that_its_only_replica_cannot_read_is_a_miss_though_others_come_from_there(
    small: Sample, autojump_clock: MockClock
) -> None:
    key, other = page_key(small.key, 0), key_of(1)
    first, second = in_order(key, IDS[:2])
    async with small_cache(first) as empty, small_cache(second) as full:
        await store_sample(full.url, small)
        full.objects[other] = b"page"
        full.unreadable.add(key)
        empty.pause_s = 0.05
        elsewhere = [empty.url.removeprefix("http://")]
        async with Replicas.open([empty.url, full.url], token=TOKEN) as replicas:
            tier = ContentCacheTier(replicas, KEYS, waits=True)

            async def read_another() -> None:
                while True:
                    with trio.move_on_after(0.02):
                        await replicas.get(other, dear=True, besides=elsewhere)
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_another)
                with trio.fail_after(2 * RESTART_S):
                    assert await tier.read(small.indexed, EXTENT) is None
                nursery.cancel_scope.cancel()
    assert full.asked_for(f"GET /v1/objects/{key}") > 1
    assert full.asked_for(f"GET /v1/objects/{other}") > 1
