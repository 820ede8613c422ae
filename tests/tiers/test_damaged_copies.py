"""One copy of a page has rotted on its replica's disk: it goes, and the good one stays."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.tiers.blame import MOST_WRONG_PAGES, WITHIN_S
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import page_key
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import ContentServer, run_content_server
from tests.support.damage import flipped
from tests.support.recording_proxy import recording_proxy
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import SmallCache, small_cache
from tests.support.tier_stack import KEYS, opened_replicas

SOME = Extent(0, 53_248)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("layer") / "tar", content_bytes=3 << 20, seed=81)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[ContentServer, ContentServer]]:
    with ExitStack() as stack:
        one, two = (stack.enter_context(run_content_server(tmp_path / name)) for name in "ab")
        yield one, two


def rot(path: Path, at: int) -> None:
    """One bit flips; no system call wrote, so no time tells of it."""
    before = path.stat()
    path.write_bytes(flipped(path.read_bytes(), at))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_rotten_copy_goes_the_good_one_answers_and_is_put_in_its_place(
    layer: Sample, replicas: tuple[ContentServer, ContentServer]
) -> None:
    async with opened_replicas(*replicas) as store:
        assert await store_layer(store, KEYS, layer.indexed, layer.tar) is Outcome.STORED
        key = page_key(layer.key, 0)
        found = await store.get(key, part=range(1))
        assert found is not None
        (damaged,) = (one for one in replicas if one.url.endswith(found.copy))
        (good,) = (one for one in replicas if one is not damaged)
        rot(damaged.objects / key, 1000)
        etags = {one.ask("HEAD", key).headers["etag"] for one in replicas}
        assert len(etags) == 1, "a copy that rots keeps the ETag of the good one"
    with recording_proxy(damaged.port) as to_damaged, recording_proxy(good.port) as to_good:
        async with opened_replicas(to_damaged, to_good) as store, trio.open_nursery() as nursery:
            mender = Mender(store, nursery)
            wrong: list[str] = []
            tier = ContentCacheTier(
                store, KEYS, mender=mender, on_unverified=lambda: wrong.append("chunk")
            )
            assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
            assert wrong == ["chunk"]
            await mender.drain()
    assert to_damaged.keys("DELETE") == {key}
    assert to_good.keys("DELETE") == set()
    for one in replicas:
        assert (one.objects / key).read_bytes() == layer.payload


TOLD = "removes no more of them"


async def read_wrong(caches: list[SmallCache], layers: list[Sample], pause_s: float) -> list[str]:
    """Read pages that are wrong where they are; what warnings told of this node."""
    async with opened_replicas(*caches) as store:
        tier = ContentCacheTier(store, KEYS)
        with capture_logs() as lines:
            for layer in layers:
                await tier.read(layer.indexed, Extent(0, 100))
                await trio.sleep(pause_s)
    return [line["event"] for line in lines if TOLD in line["event"]]


def spoil(cache: SmallCache) -> None:
    cache.objects.update(dict.fromkeys(cache.objects, b"wrong"))


@pytest.fixture
def layers(tmp_path: Path) -> list[Sample]:
    """Of one page each; about half of them belong to either replica first."""
    count = 4 * MOST_WRONG_PAGES
    return [make_sample(tmp_path / str(n), content_bytes=1000, seed=n) for n in range(count)]


@pytest.fixture
async def two(layers: list[Sample]) -> AsyncIterator[list[SmallCache]]:
    async with small_cache("content-0") as one, small_cache("content-1") as other:
        for layer in layers:
            key = page_key(layer.key, 0)
            one.objects[key] = other.objects[key] = layer.payload
        yield [one, other]


async def test_a_node_to_whom_every_replicas_pages_are_wrong_stops_to_remove_them_and_says_so_once(
    layers: list[Sample], two: list[SmallCache]
) -> None:
    for one in two:
        spoil(one)
    assert len(await read_wrong(two, layers, pause_s=0)) == 1
    assert [len(layers) - len(one.objects) for one in two] == [MOST_WRONG_PAGES - 1] * 2


async def test_a_node_to_whom_the_only_replicas_pages_are_wrong_stops_as_well(
    layers: list[Sample], two: list[SmallCache]
) -> None:
    spoil(two[0])
    assert len(await read_wrong(two[:1], layers, pause_s=0)) == 1
    assert len(layers) - len(two[0].objects) == MOST_WRONG_PAGES - 1


async def test_all_pages_of_the_one_replica_that_rots_are_removed(
    layers: list[Sample], two: list[SmallCache]
) -> None:
    spoil(two[0])
    assert await read_wrong(two, layers, pause_s=0) == []
    read = [one.removeprefix("GET /v1/objects/") for one in two[0].asked if "GET /v1" in one]
    assert len(read) > MOST_WRONG_PAGES
    assert not two[0].objects.keys() & set(read)
    assert len(two[1].objects) == len(layers)


async def test_pages_that_are_wrong_now_and_then_are_removed(
    layers: list[Sample], two: list[SmallCache], autojump_clock: MockClock
) -> None:
    for one in two:
        spoil(one)
    assert await read_wrong(two, layers, pause_s=WITHIN_S / (MOST_WRONG_PAGES - 1)) == []
    assert not two[0].objects
    assert not two[1].objects
