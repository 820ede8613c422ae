"""The law-book of the Tier protocol, run against every implementation and the chain of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex
from clipfs.layer.sealed_index import seal_index
from clipfs.system.durable import write_atomically
from clipfs.tiers.content.bucket_opening import open_object_store
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.disk import DiskTier
from clipfs.tiers.pages import PAGE_BYTES
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent, IndexedLayer, Payload
from tests.support.content import TOKEN, ContentServer
from tests.support.damage import flipped
from tests.support.memory_tier import MemoryTier
from tests.support.s3_server import S3Server
from tests.support.samples import Sample
from tests.support.tier_stack import KEYS, made_layout, opened_store, opened_tiers, store_sample

SHARED = ["content_cache", "object_store"]
OBJECT_STORE = "s3://shared/laws"
TIERS = ["memory", "disk", "disk-partial", *SHARED, "registry", "chain"]


class Reads(Protocol):
    """What a tier and the chain have in common."""

    async def load_index(self, layer: Layer) -> LayerIndex | None: ...

    async def read(self, layer: IndexedLayer, extent: Extent) -> Payload | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Everything that a tier may need to hold the sample."""

    root: Path
    sample: Sample
    image: str
    cache_url: str


@pytest.fixture
def place(
    tmp_path: Path,
    sample: Sample,
    image: str,
    content_server: ContentServer,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    s3_server.use(monkeypatch)
    return Place(root=tmp_path, sample=sample, image=image, cache_url=content_server.url)


@pytest.fixture(params=TIERS)
async def tier(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Reads]:
    """A tier that holds the sample and has not been asked for anything."""
    async with AsyncExitStack() as stack:
        yield await opened(request.param, place, stack)


async def opened(name: str, place: Place, stack: AsyncExitStack) -> Reads:
    sample, enter = place.sample, stack.enter_async_context
    if name == "memory":
        return MemoryTier(samples=[sample])
    if name == "registry":
        return (await enter(opened_tiers(place.root, place.image))).registry
    if name.startswith("disk"):
        layout = made_layout(place.root)
        disk = await enter(DiskTier.open(layout, KEYS))
        disk.save_index(sample.layer, sample.indexed.index)
        if name == "disk":
            layout.payload(sample.key).write_bytes(sample.payload)
        else:
            disk.partial(sample.indexed).write(
                range(sample.indexed.index.chunk_count), sample.payload
            )
        return disk
    if name == "object_store":
        store = await enter(open_object_store(OBJECT_STORE))
        assert await store_layer(store, KEYS, sample.indexed, sample.tar) is Outcome.STORED
        return ContentCacheTier(store, KEYS)
    await store_sample(place.cache_url, sample)
    if name == "chain":
        return (await enter(opened_tiers(place.root, place.image, cache_url=place.cache_url))).chain
    return ContentCacheTier(await enter(Replicas.open([place.cache_url], token=TOKEN)), KEYS)


def extents_of(payload_bytes: int) -> dict[str, Extent]:
    return {
        "first byte": Extent(0, 1),
        "last byte": Extent(payload_bytes - 1, 1),
        "one chunk": Extent(CHUNK_BYTES, CHUNK_BYTES),
        "across two chunks": Extent(CHUNK_BYTES - 1, 2),
        "within a chunk": Extent(3 * CHUNK_BYTES + 17, 1000),
        "across two pages": Extent(PAGE_BYTES - 5, 10),
        "one page": Extent(PAGE_BYTES, PAGE_BYTES),
        "the short end": Extent(payload_bytes - 70_001, 70_001),
        "everything": Extent(0, payload_bytes),
    }


async def test_the_index_is_the_layers_own(tier: Reads, sample: Sample) -> None:
    index = await tier.load_index(sample.layer)
    assert index is not None
    wanted = sample.indexed.index
    assert index.payload_bytes == wanted.payload_bytes
    assert index.diff_id == wanted.diff_id
    assert index.chunk_digests == wanted.chunk_digests


async def test_a_read_gives_exactly_the_bytes_of_the_extent(tier: Reads, sample: Sample) -> None:
    for name, extent in extents_of(len(sample.payload)).items():
        data = await tier.read(sample.indexed, extent)
        assert data is not None, name
        assert len(data) == extent.length, name
        assert data == sample.bytes_of(extent), name


async def test_readers_at_the_same_time_get_each_their_own_bytes(
    tier: Reads, sample: Sample
) -> None:
    found: dict[Extent, Payload | None] = {}

    async def read(extent: Extent) -> None:
        found[extent] = await tier.read(sample.indexed, extent)

    async with trio.open_nursery() as nursery:
        for extent in extents_of(len(sample.payload)).values():
            nursery.start_soon(read, extent)
    for extent, data in found.items():
        assert data == sample.bytes_of(extent), extent


async def test_a_reader_that_goes_away_harms_no_other(tier: Reads, sample: Sample) -> None:
    extent = Extent(0, 10 * CHUNK_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tier.read, sample.indexed, extent)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert await tier.read(sample.indexed, extent) == sample.bytes_of(extent)


@pytest.mark.parametrize("name", ["memory", "disk", "disk-partial", *SHARED])
async def test_a_layer_that_is_not_there_is_a_miss_without_an_error(
    name: str, place: Place
) -> None:
    absent = other_layer(place.sample)
    async with AsyncExitStack() as stack:
        tier = await opened(name, place, stack)
        assert await tier.load_index(absent.layer) is None
        assert await tier.read(absent, Extent(0, 100)) is None


@pytest.mark.parametrize("name", ["registry", "chain"])
async def test_the_last_tier_says_that_a_layer_is_nowhere(name: str, place: Place) -> None:
    absent = other_layer(place.sample)
    async with AsyncExitStack() as stack:
        tier = await opened(name, place, stack)
        with pytest.raises(errors.ImageNotFound):
            await tier.load_index(absent.layer)
        with pytest.raises(errors.ImageNotFound):
            await tier.read(absent, Extent(0, 100))


@pytest.mark.parametrize("name", ["disk", *SHARED])
async def test_an_index_with_one_flipped_bit_is_a_miss(name: str, place: Place) -> None:
    other = other_layer(place.sample)
    sealed = seal_index(other.index, other.layer, KEYS)
    sealed = flipped(sealed, sealed.index(other.index.chunk_digests))  # an index still, of others
    async with AsyncExitStack() as stack:
        tier = await opened(name, place, stack)
        if isinstance(tier, DiskTier):
            write_atomically(tier.layout.layer_index(other.cache_key), sealed)
        else:
            url = OBJECT_STORE if name == "object_store" else place.cache_url
            cache = await stack.enter_async_context(opened_store(url))
            await cache.put(f"{other.cache_key}.v1.toc", sealed)
        assert await tier.load_index(other.layer) is None


@pytest.mark.parametrize("name", ["memory", "disk", "disk-partial", *SHARED, "chain"])
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_extents_in_any_order_give_their_bytes(
    name: str, place: Place, data: st.DataObject
) -> None:
    size = len(place.sample.payload)
    offsets = st.integers(0, size - 1)
    extents = [
        Extent(offset, data.draw(st.integers(1, min(size - offset, 2 * CHUNK_BYTES))))
        for offset in data.draw(st.lists(offsets, min_size=1, max_size=6))
    ]

    async def read_all() -> None:
        async with AsyncExitStack() as stack:
            tier = await opened(name, place, stack)
            for extent in extents:
                assert await tier.read(place.sample.indexed, extent) == place.sample.bytes_of(
                    extent
                )

    trio.run(read_all)


def other_layer(sample: Sample) -> IndexedLayer:
    """A layer with another digest, and so another key, which nobody has stored."""
    layer = sample.layer
    other = Layer(
        digest=Digest("sha256:" + "0" * 64),
        size=layer.size,
        media_type=layer.media_type,
        diff_id=layer.diff_id,
    )
    return IndexedLayer(layer=other, index=sample.indexed.index)
