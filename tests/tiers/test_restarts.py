"""Lazy reads while the content cache restarts: they wait, and no layer is fetched again."""

import pytest
import trio
from trio.testing import MockClock

from clipfs.tiers.content.replicas import RESTART_S, Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.tier import Extent
from tests.support.content import TOKEN
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import small_cache
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
