"""Lazy reads while the content cache restarts: they wait, and no layer is fetched again."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from clipfs import errors
from clipfs.image.retry import ONCE
from clipfs.tiers.chain import TierChain
from clipfs.tiers.content.breaker import SOON_S
from clipfs.tiers.content.reading import RESTART_S
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content.replica import PROBE_S
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentCacheDown
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import page_key
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import key_of
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import IDS, SmallCache, small_cache, small_caches
from tests.support.tier_stack import KEYS, opened_replicas, opened_tiers, store_sample

KEY = key_of(7)
EXTENT = Extent(1000, 200_000)

OUTAGE_S = 25
"""So long that a replica which is down is asked every 16 s."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=300_000)


ABSENCES = pytest.mark.parametrize(
    ("waits", "away_s", "is_read"),
    [
        pytest.param(True, RESTART_S - 1, True, id="lazy reads"),
        pytest.param(True, RESTART_S + 2, False, id="lazy reads, too long"),
        pytest.param(False, RESTART_S - 1, False, id="before the mount"),
    ],
)


async def restarted(cache: SmallCache, away_s: float) -> None:
    await cache.stop()
    await trio.sleep(away_s)
    await cache.start()


@ABSENCES
async def test_a_read_waits_for_a_content_cache_that_restarts_once_there_is_a_mount(
    waits: bool, away_s: float, is_read: bool, small: Sample, autojump_clock: MockClock
) -> None:
    async with small_cache() as cache:
        await store_sample(cache.url, small)
        async with opened_replicas(cache) as replicas:
            tier = ContentCacheTier(replicas, KEYS, waits=waits)
            assert await tier.load_index(small.layer) is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(restarted, cache, away_s)
                await trio.sleep(0.1)
                data = await tier.read(small.indexed, EXTENT)
    assert data == (small.bytes_of(EXTENT) if is_read else None)


@pytest.mark.parametrize("lost", ["the first copy", "the second copy"])
@ABSENCES
async def test_a_read_waits_for_the_only_copy_as_long_as_for_a_whole_content_cache(
    waits: bool, away_s: float, is_read: bool, lost: str, small: Sample, autojump_clock: MockClock
) -> None:
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(small_caches(*IDS[:2]))
        order = [two[one] for one in in_order(page_key(small.key, 0), two)]
        empty, full = order if lost == "the first copy" else order[::-1]
        await store_sample(full.url, small)
        replicas = await stack.enter_async_context(opened_replicas(*two.values()))
        tier = ContentCacheTier(replicas, KEYS, waits=waits)
        assert await tier.load_index(small.layer) is not None
        assert not empty.objects
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restarted, full, away_s)
            await trio.sleep(0.1)
            data = await tier.read(small.indexed, EXTENT)
    assert data == (small.bytes_of(EXTENT) if is_read else None)


async def test_no_lazy_read_is_a_miss_while_replicas_are_rolled_one_of_which_lost_its_disk(
    three: dict[str, SmallCache], tmp_path: Path, autojump_clock: MockClock
) -> None:
    layers = [make_sample(tmp_path / str(n), content_bytes=200_000, seed=n) for n in range(8)]
    missed: list[str] = []
    caches = list(three.values())
    async with opened_replicas(*caches) as replicas:
        for layer in layers:
            stored = await store_layer(replicas, KEYS, layer.indexed, layer.tar)
            assert stored is Outcome.STORED
        assert all(one.asked_for("PUT /v1/objects") for one in caches)
        caches[0].objects.clear()
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
            for one in caches:
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
        async with opened_replicas(empty, full) as replicas:
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


@asynccontextmanager
async def dead_registry(
    meanwhile: Callable[[], Awaitable[None]],
) -> AsyncIterator[tuple[str, list[int]]]:
    """Its host:port, and a count of its connections: meanwhile runs, and then each is closed."""
    asked: list[int] = []

    async def serve(stream: trio.SocketStream) -> None:
        asked.append(1)
        await meanwhile()
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


async def outage(chain: TierChain, sample: Sample) -> None:
    """Reads that fail, for so long that the breaker asks seldom."""
    begin = trio.current_time()
    while trio.current_time() < begin + OUTAGE_S:
        with pytest.raises(errors.RegistryUnavailable):
            await chain.read(sample.indexed, Extent(0, 100))
        await trio.sleep(0.5)


async def test_the_first_read_after_a_long_outage_finds_the_content_cache_and_asks_no_registry(
    small: Sample, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with small_cache() as cache, dead_registry(trio.lowlevel.checkpoint) as (host, asked):
        await store_sample(cache.url, small)
        image = f"{host}/some/image:1"
        async with opened_tiers(
            tmp_path, image, cache_url=cache.url, retry=ONCE, mounted=True
        ) as tiers:
            await cache.stop()
            await outage(tiers.chain, small)
            assert asked
            asked.clear()
            await cache.start()
            assert await tiers.chain.read(small.indexed, EXTENT) == small.bytes_of(EXTENT)
            assert not asked


async def test_a_read_that_the_registry_fails_asks_the_content_cache_once_more(
    small: Sample, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It came back while the registry was asked."""
    returns = False

    async def meanwhile() -> None:
        if returns:
            await cache.start()

    async with small_cache() as cache, dead_registry(meanwhile) as (host, asked):
        await store_sample(cache.url, small)
        image = f"{host}/some/image:1"
        async with opened_tiers(
            tmp_path, image, cache_url=cache.url, retry=ONCE, mounted=True
        ) as tiers:
            await cache.stop()
            await outage(tiers.chain, small)
            asked.clear()
            returns = True
            assert await tiers.chain.read(small.indexed, EXTENT) == small.bytes_of(EXTENT)
            assert len(asked) == 1


async def test_a_read_that_no_tier_can_answer_fails_though_the_content_cache_is_up(
    small: Sample, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with small_cache() as cache, dead_registry(trio.lowlevel.checkpoint) as (host, asked):
        image = f"{host}/some/image:1"
        async with opened_tiers(
            tmp_path, image, cache_url=cache.url, retry=ONCE, mounted=True
        ) as tiers:
            with pytest.raises(errors.RegistryUnavailable):
                await tiers.chain.read(small.indexed, Extent(0, 100))
            assert len(asked) == 1


@pytest.mark.parametrize("hangs", [True, False])
async def test_who_probes_a_replica_that_is_down_waits_little_and_for_one_request(
    hangs: bool, autojump_clock: MockClock
) -> None:
    async with small_cache() as cache, opened_replicas(cache) as replicas:
        await down(cache, replicas, hangs=hangs)
        asked, begin = len(cache.asked), trio.current_time()

        async def probe() -> None:
            with pytest.raises(ContentCacheDown):
                await replicas.get(KEY, dear=True, probes=True)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(probe)
        assert trio.current_time() - begin <= PROBE_S + SOON_S
        assert len(cache.asked) - asked == (1 if hangs else 0)


async def test_all_who_probe_at_the_same_time_find_the_replica_that_is_back(
    autojump_clock: MockClock,
) -> None:
    async with small_cache() as cache, opened_replicas(cache) as replicas:
        cache.objects[KEY] = b"page"
        await down(cache, replicas, hangs=False)
        await cache.start()
        with pytest.raises(ContentCacheDown):
            await replicas.get(KEY, dear=True)
        found: list[bytes] = []

        async def probe() -> None:
            got = await replicas.get(KEY, dear=True, probes=True)
            assert got is not None
            found.append(bytes(got.data))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(probe)
        assert found == [b"page"] * 20


async def test_the_only_copy_is_found_on_a_replica_that_is_back_though_the_other_one_was_up(
    autojump_clock: MockClock,
) -> None:
    async with small_cache("a") as first, small_cache("b") as second:
        second.objects[KEY] = b"page"
        async with opened_replicas(first, second) as replicas:
            await down(second, replicas, hangs=False)
            await second.start()
            assert await replicas.get(KEY, dear=True) is None
            found = await replicas.get(KEY, dear=True, probes=True)
    assert found is not None
    assert found.data == b"page"


async def down(cache: SmallCache, replicas: Replicas, *, hangs: bool) -> None:
    """Take the replica away for so long that it is asked seldom."""
    await replicas.get(KEY, dear=True)
    if hangs:
        cache.pause_s = math.inf
    else:
        await cache.stop()
    begin = trio.current_time()
    while trio.current_time() < begin + OUTAGE_S:
        with suppress(ContentCacheDown):
            await replicas.get(KEY, dear=True)
        await trio.sleep(0.5)
