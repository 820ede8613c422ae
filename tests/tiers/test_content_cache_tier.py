"""The middle tier: what is wrong in the content cache is a miss, and the read is still right."""

import itertools
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.layout import layer_index_name
from clipfs.layer.sealed_index import seal_index
from clipfs.tiers.content.store import Found
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import PAGE_BYTES
from clipfs.tiers.tier import Extent
from tests.support.content import ContentServer, key_of
from tests.support.damage import flipped
from tests.support.memory_store import MemoryStore
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, Counted, opened_tiers, store_sample

HIT = "CONTENT CACHE HIT - range read from remote"
MISS = "ContentCache miss - will decompress from OCI"
WRONG = "content cache sent wrong bytes, they are not used"
SEEDS = itertools.count(1000)


@pytest.fixture
async def stored(tmp_path: Path, content_server: ContentServer) -> Sample:
    """A layer of its own, whole in the content cache, so that the test may damage it."""
    one = make_sample(tmp_path / "tar", content_bytes=9 << 20, seed=next(SEEDS))
    await store_sample(content_server.url, one)
    return one


def page(server: ContentServer, sample: Sample, number: int) -> Path:
    return server.objects / sample.key / f"{number:06d}"


def index_object(server: ContentServer, sample: Sample) -> Path:
    return server.objects / f"{sample.key}.v1.toc"


async def test_a_read_moves_the_chunks_that_it_touches_and_nothing_of_the_registry(
    stored: Sample, content_server: ContentServer, registry: RegistryServer, tmp_path: Path
) -> None:
    reference = stored.push(registry.address, f"tiers/moves-{stored.key[-8:]}:1")
    counted, extent = Counted(), Extent(PAGE_BYTES - 100, 200)
    async with opened_tiers(
        tmp_path / "B", reference, cache_url=content_server.url, hooks=counted.hooks
    ) as tiers:
        with capture_logs() as lines:
            assert await tiers.chain.load_index(stored.layer) == stored.indexed.index
            assert await tiers.chain.read(stored.indexed, extent) == stored.bytes_of(extent)
    assert [line["event"] for line in lines if line["event"] in (HIT, MISS)] == [HIT, HIT]
    assert counted.bytes == {"content_cache": 2 * CHUNK_BYTES}


@pytest.mark.parametrize(
    ("damage", "is_counted"),
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:1000]), True, id="cut short"),
        pytest.param(lambda path: path.unlink(), False, id="gone"),
    ],
)
async def test_a_page_that_its_replica_has_lost_is_a_miss_and_the_registry_gives_the_right_bytes(
    damage: Callable[[Path], object],
    is_counted: bool,
    stored: Sample,
    content_server: ContentServer,
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    reference = stored.push(registry.address, f"tiers/damaged-{stored.key[-8:]}:1")
    damage(page(content_server, stored, 0))
    counted, extent = Counted(), Extent(3 * CHUNK_BYTES, 100)
    async with opened_tiers(
        tmp_path / "B", reference, cache_url=content_server.url, hooks=counted.hooks
    ) as tiers:
        with capture_logs() as lines:
            index = await tiers.chain.load_index(stored.layer)
            assert index == stored.indexed.index
            assert await tiers.chain.read(stored.indexed, extent) == stored.bytes_of(extent)
    events = [line["event"] for line in lines]
    assert MISS in events
    assert counted.bytes["registry"] > 0  # the fault was met
    assert counted.troubles == ({"verify_failures": 1} if is_counted else {})
    assert (WRONG in events) == is_counted


async def test_wrong_bytes_are_a_warning_that_names_the_chunk(
    stored: Sample, content_server: ContentServer, registry: RegistryServer, tmp_path: Path
) -> None:
    reference = stored.push(registry.address, f"tiers/warned-{stored.key[-8:]}:1")
    path = page(content_server, stored, 0)
    path.write_bytes(flipped(path.read_bytes(), 3 * CHUNK_BYTES + 5))
    async with opened_tiers(tmp_path / "B", reference, cache_url=content_server.url) as tiers:
        await tiers.chain.load_index(stored.layer)
        with capture_logs() as lines:
            extent = Extent(2 * CHUNK_BYTES, 2 * CHUNK_BYTES)
            assert await tiers.chain.read(stored.indexed, extent) == stored.bytes_of(extent)
    warned = [line for line in lines if line["event"] == WRONG]
    assert [(line["log_level"], line["chunk"]) for line in warned] == [("warning", 3)]


async def test_a_content_cache_that_is_down_fails_no_read(
    image: str, sample: Sample, tmp_path: Path
) -> None:
    counted = Counted()
    async with opened_tiers(
        tmp_path, image, cache_url="http://127.0.0.1:1", hooks=counted.hooks
    ) as tiers:
        with capture_logs() as lines:
            await tiers.chain.load_index(sample.layer)
            extent = Extent(100, 100)
            assert await tiers.chain.read(sample.indexed, extent) == sample.bytes_of(extent)
    assert "content cache unavailable" in [line["event"] for line in lines]
    assert counted.troubles["errors"] >= 1


async def test_keys_are_the_layers_key_with_a_page_number_or_a_suffix(
    content_server: ContentServer, stored: Sample
) -> None:
    assert key_of(int(stored.layer.digest[7:], 16)) == f"{stored.key}/000000"
    assert sorted(path.name for path in (content_server.objects / stored.key).iterdir()) == [
        "000000",
        "000001",
    ]
    assert index_object(content_server, stored).exists()


class _SlowStore(MemoryStore):
    """Takes a second to answer, and knows how many answers were on their way at most."""

    on_their_way = 0
    most = 0

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)
        await trio.sleep(1)
        self.on_their_way -= 1
        return await MemoryStore.get(self, key, part=part, besides=besides)


@pytest.mark.parametrize("waits", [False, True], ids=["a mount's", "of who waits for them"])
async def test_of_many_layers_few_indexes_are_in_memory_before_they_are_verified(
    waits: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = _SlowStore()
    layers = [make_sample(tmp_path / str(n), content_bytes=512, seed=n) for n in range(20)]
    for one in layers:
        sealed = seal_index(one.indexed.index, one.layer, KEYS, packed=True)
        store.objects[layer_index_name(one.key)] = sealed
    tier = ContentCacheTier(store, KEYS)
    found: list[LayerIndex | None] = []

    async def load(one: Sample) -> None:
        if waits:
            found.append(await tier.look_for_index(one.layer, True))
        else:
            found.append(await tier.load_index(one.layer))

    async with trio.open_nursery() as nursery:
        for one in layers:
            nursery.start_soon(load, one)
    assert sum(one is not None for one in found) == len(layers)
    assert store.most == 4
