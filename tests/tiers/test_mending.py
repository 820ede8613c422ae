"""What is wrong or missing in the content cache is mended by those who meet it, and may."""

import itertools
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from clipfs.layer.index import CHUNK_BYTES, VERSION, encode
from clipfs.layer.layout import layer_index_name
from clipfs.layer.origin import record_name
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import KIND, seal_index
from clipfs.tiers.content.mender import MAX_WAITING, Mender
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import PAGE_BYTES, page_key
from clipfs.tiers.storer import Outcome, Storer, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import READ_TOKEN, ContentServer, run_content_server
from tests.support.damage import flipped
from tests.support.ports import free_port
from tests.support.recording_proxy import Recorder, recording_proxy
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import IDS, SmallCache
from tests.support.tier_stack import (
    KEYS,
    NEW,
    OLD,
    Counted,
    made_layout,
    opened_replicas,
    opened_tiers,
    store_sample,
)

SEEDS = itertools.count(7000)
SOME = Extent(3 * CHUNK_BYTES + 5, 100)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A layer of two pages."""
    return make_sample(tmp_path_factory.mktemp("layer") / "tar", content_bytes=9 << 20, seed=77)


@pytest.fixture
def fresh(tmp_path: Path) -> Sample:
    """A layer of two pages that no other test knows."""
    return make_sample(tmp_path / "fresh.tar", content_bytes=9 << 20, seed=next(SEEDS))


@asynccontextmanager
async def mending(
    caches: dict[str, SmallCache], keys: KeyRing = KEYS, *, wrong: list[str] | None = None
) -> AsyncIterator[tuple[ContentCacheTier, Mender]]:
    """A tier over these caches, and who mends for it."""
    async with (
        opened_replicas(*caches.values()) as store,
        trio.open_nursery() as nursery,
    ):
        mender = Mender(store, nursery)
        seen = wrong if wrong is not None else []
        yield (
            ContentCacheTier(
                store, keys, mender=mender, waits=True, on_unverified=lambda: seen.append("chunk")
            ),
            mender,
        )


async def stored(caches: dict[str, SmallCache], sample: Sample, keys: KeyRing = KEYS) -> None:
    async with opened_replicas(*caches.values()) as store:
        assert await store_layer(store, keys, sample.indexed, sample.tar) is Outcome.STORED


def copies_of(caches: dict[str, SmallCache], key: str) -> list[SmallCache]:
    """The two that the key belongs to, the first one first."""
    return [caches[one] for one in in_order(key, IDS)[:2]]


def wrongs(sample: Sample) -> dict[str, bytes]:
    page = sample.payload[:PAGE_BYTES]
    return {
        "one bit": flipped(page, 3 * CHUNK_BYTES + 5),
        "zeros": bytes(PAGE_BYTES),
        "cut within the chunk": page[: 3 * CHUNK_BYTES + 50],
        "cut before the chunk": page[:CHUNK_BYTES],
        "empty": b"",
        "another page": sample.payload[PAGE_BYTES:],
    }


@pytest.mark.parametrize(
    "damage",
    ["one bit", "zeros", "cut within the chunk", "cut before the chunk", "empty", "another page"],
)
async def test_a_wrong_page_is_counted_removed_passed_over_and_put_back_from_the_second_copy(
    damage: str, three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer)
    key = page_key(layer.key, 0)
    first, second = copies_of(three, key)
    first.objects[key] = wrongs(layer)[damage]
    wrong: list[str] = []
    async with mending(three, wrong=wrong) as (tier, mender):
        assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
        assert wrong == ["chunk"]
        assert key not in first.objects
        await mender.drain()
    assert first.objects[key] == second.objects[key] == layer.payload[:PAGE_BYTES]
    assert first.asked_for(f"DELETE /v1/objects/{key}") == 1


async def test_a_page_that_is_wrong_in_both_copies_is_a_miss_and_gone(
    three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer)
    key, wrong = page_key(layer.key, 0), list[str]()
    for one in copies_of(three, key):
        one.objects[key] = bytes(PAGE_BYTES)
    async with mending(three, wrong=wrong) as (tier, mender):
        assert await tier.read(layer.indexed, SOME) is None
        await mender.drain()
    assert wrong == ["chunk", "chunk"]
    assert not any(key in one.objects for one in three.values())


async def test_a_replica_that_lost_its_disk_gets_what_is_read_of_it_again_and_no_more(
    three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer)
    key, other = page_key(layer.key, 0), page_key(layer.key, 1)
    first, second = copies_of(three, key)
    first.objects.clear()
    async with mending(three) as (tier, mender):
        for _ in range(3):
            assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
        await mender.drain()
        assert first.objects[key] == layer.payload[:PAGE_BYTES]
        assert other not in first.objects
        before = second.asked_for(f"GET /v1/objects/{key}")
        assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
        assert second.asked_for(f"GET /v1/objects/{key}") == before
    assert first.asked_for(f"PUT /v1/objects/{key}") == 2  # the first store, and this
    assert second.asked_for(f"PUT /v1/objects/{key}") == 1


async def test_what_another_node_has_put_back_is_not_moved_again(
    three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer)
    key = page_key(layer.key, 0)
    first, second = copies_of(three, key)
    page = first.objects.pop(key)
    async with mending(three) as (tier, mender):
        assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
        first.objects[key] = page
        asked = second.asked_for(f"GET /v1/objects/{key}")
        await mender.drain()
        assert second.asked_for(f"GET /v1/objects/{key}") <= asked + 1  # whether it stands
    assert first.asked_for(f"PUT /v1/objects/{key}") == 1


async def test_at_most_so_many_things_wait_to_be_mended(three: dict[str, SmallCache]) -> None:
    async with (
        opened_replicas(*three.values()) as store,
        trio.open_nursery() as nursery,
    ):
        mender, mended, running = Mender(store, nursery), list[int](), list[int]()

        async def mend(number: int) -> None:
            running.append(number)
            assert len(running) == 1
            await trio.lowlevel.checkpoint()
            mended.append(running.pop())

        for number in range(MAX_WAITING + 50):
            for _ in range(2):  # the second time it waits already

                async def one(number: int = number) -> None:
                    await mend(number)

                mender.soon(str(number), one, spread=False)
        await mender.drain()
    assert sorted(mended) == list(range(MAX_WAITING))


async def test_who_may_only_read_passes_a_wrong_copy_over_and_changes_nothing(
    layer: Sample, tmp_path: Path
) -> None:
    with run_content_server(tmp_path / "1") as one, run_content_server(tmp_path / "2") as two:
        async with opened_replicas(one, two) as store:
            assert await store_layer(store, KEYS, layer.indexed, layer.tar) is Outcome.STORED
        key = page_key(layer.key, 0)
        for damaged in (one, two):
            good = (damaged.objects / key).read_bytes()
            (damaged.objects / key).write_bytes(bytes(PAGE_BYTES))
            with recording_proxy(one.port) as first, recording_proxy(two.port) as second:
                async with (
                    opened_replicas(first, second, token=READ_TOKEN) as store,
                    trio.open_nursery() as nursery,
                ):
                    mender = Mender(store, nursery)
                    tier = ContentCacheTier(store, KEYS, mender=mender)
                    for _ in range(2):
                        assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
                    await mender.drain()
            assert (damaged.objects / key).read_bytes() == bytes(PAGE_BYTES)
            assert not first.keys("PUT") | second.keys("PUT")
            (damaged.objects / key).write_bytes(good)


def id_of(server: ContentServer) -> str:
    found: str = json.loads(server.ask("GET", "/healthz").body)["id"]
    return found


def id_before(other: str, key: str) -> str:
    """An id whose replica has the key before the other's has."""
    ids = (str(uuid.UUID(int=number)) for number in itertools.count())
    return next(one for one in ids if in_order(key, [one, other])[0] == one)


async def test_a_real_replica_that_lost_its_disk_and_so_its_id_is_filled_by_what_is_read(
    layer: Sample, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        kept = stack.enter_context(run_content_server(tmp_path / "kept"))
        port = free_port()
        with run_content_server(tmp_path / "lost", port=port) as lost:
            async with opened_replicas(kept, lost) as store:
                assert await store_layer(store, KEYS, layer.indexed, layer.tar) is Outcome.STORED
        shutil.rmtree(tmp_path / "lost")
        key = page_key(layer.key, 0)
        (tmp_path / "lost/objects").mkdir(parents=True)
        (tmp_path / "lost/objects/id").write_text(id_before(id_of(kept), key) + "\n")
        new = stack.enter_context(run_content_server(tmp_path / "lost", port=port))
        ids = {id_of(one): one for one in (kept, new)}
        async with (
            opened_replicas(kept, new) as store,
            trio.open_nursery() as nursery,
        ):
            mender = Mender(store, nursery)
            tier = ContentCacheTier(store, KEYS, mender=mender)
            assert await tier.load_index(layer.layer) is not None
            for chunk in range(layer.indexed.index.chunk_count - 1):
                extent = Extent(chunk * CHUNK_BYTES, CHUNK_BYTES)
                assert await tier.read(layer.indexed, extent) == layer.bytes_of(extent)
            await mender.drain()
    keys = [page_key(layer.key, 0), page_key(layer.key, 1), layer_index_name(layer.key)]
    theirs = [key for key in keys if ids[in_order(key, ids)[0]] is new]
    assert key in theirs
    assert {key for key in keys if (new.objects / key).exists()} == set(theirs)
    for key in theirs:
        assert (new.objects / key).read_bytes() == (kept.objects / key).read_bytes()


@pytest.fixture
def recorded(content_server: ContentServer) -> Iterator[Recorder]:
    with recording_proxy(content_server.port) as recorder:
        yield recorder


async def test_without_a_second_copy_the_registry_answers_and_just_that_page_is_stored_again(
    fresh: Sample,
    content_server: ContentServer,
    recorded: Recorder,
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    await store_sample(content_server.url, fresh)
    reference = fresh.push(registry.address, f"tiers/mended-{fresh.key[-8:]}:1")
    path = content_server.objects / page_key(fresh.key, 0)
    path.write_bytes(bytes(PAGE_BYTES))
    counted = Counted()
    async with opened_tiers(
        tmp_path / "B", reference, cache_url=recorded.url, hooks=counted.hooks
    ) as tiers:
        assert await tiers.chain.load_index(fresh.layer) == fresh.indexed.index
        assert await tiers.chain.read(fresh.indexed, SOME) == fresh.bytes_of(SOME)
        await tiers.registry.settled(fresh.indexed)
        assert tiers.storer is not None
        await tiers.storer.drain()
    assert counted.bytes["registry"] > 0  # the fault was met
    assert path.read_bytes() == fresh.payload[:PAGE_BYTES]
    host = reference.partition("/")[0]
    assert recorded.keys("PUT") == {page_key(fresh.key, 0), record_name(fresh.key, host)}


async def test_an_index_of_an_older_key_is_signed_again_without_a_download(
    three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer, OLD)
    name = layer_index_name(layer.key)
    async with mending(three, NEW) as (tier, mender):
        assert await tier.load_index(layer.layer) == layer.indexed.index
        await mender.drain()
    renewed = seal_index(layer.indexed.index, layer.layer, NEW, packed=True)
    assert [one.objects[name] for one in copies_of(three, name)] == [renewed] * 2
    async with mending(three, KEYS) as (tier, mender):  # the old key is dropped
        assert await tier.load_index(layer.layer) == layer.indexed.index
    assert sum(one.asked_for(f"GET /v1/objects/{layer.key}/") for one in three.values()) <= 4


def forged_index(kind: str, sample: Sample) -> bytes:
    index, layer = sample.indexed.index, sample.layer
    content = encode(index)
    return {
        "empty": b"",
        "garbage": b"garbage" * 100,
        "another cluster's": seal_index(index, layer, KeyRing((b"not ours",))),
        "another layer's": KEYS.seal(content, kind=KIND, version=VERSION, name="sha256_other"),
        "another version": KEYS.seal(content, kind=KIND, version=VERSION + 1, name=sample.key),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["empty", "garbage", "another cluster's", "another layer's", "another version"]
)
async def test_a_forged_index_is_passed_over_and_replaced_where_the_second_copy_is_right(
    kind: str, three: dict[str, SmallCache], layer: Sample
) -> None:
    await stored(three, layer)
    name = layer_index_name(layer.key)
    first, second = copies_of(three, name)
    first.objects[name] = forged_index(kind, layer)
    async with mending(three) as (tier, mender):
        with capture_logs() as lines:
            assert await tier.load_index(layer.layer) == layer.indexed.index
        await mender.drain()
    assert "layer index from the content cache does not verify" in [one["event"] for one in lines]
    assert first.objects[name] == second.objects[name]


async def test_a_forged_index_without_a_right_copy_is_replaced_once_the_layer_is_here(
    fresh: Sample, content_server: ContentServer, registry: RegistryServer, tmp_path: Path
) -> None:
    await store_sample(content_server.url, fresh, keys=KeyRing((b"not ours",)))
    reference = fresh.push(registry.address, f"tiers/forged-{fresh.key[-8:]}:1")
    async with opened_tiers(tmp_path / "B", reference, cache_url=content_server.url) as tiers:
        await tiers.chain.load_index(fresh.layer)
        assert tiers.storer is not None
        await tiers.storer.drain()
    async with opened_replicas(content_server) as store:
        index = await ContentCacheTier(store, KEYS).load_index(fresh.layer)
    assert index is not None
    assert index.chunk_digests == fresh.indexed.index.chunk_digests


@pytest.mark.parametrize("lost", ["nothing", "a page", "the index", "the new signature"])
async def test_to_store_what_is_missing_stores_just_that(
    lost: str, fresh: Sample, content_server: ContentServer, recorded: Recorder, tmp_path: Path
) -> None:
    await store_sample(content_server.url, fresh, keys=OLD if lost == "the new signature" else NEW)
    name = layer_index_name(fresh.key)
    lose = {"a page": {page_key(fresh.key, 1)}, "the index": {name}}.get(lost, set())
    for key in lose:
        (content_server.objects / key).unlink()
    layout = made_layout(tmp_path / "A")
    layout.payload(fresh.key).write_bytes(fresh.payload)
    async with (
        opened_replicas(recorded) as store,
        trio.open_nursery() as nursery,
    ):
        storer = Storer(store, layout, NEW, nursery)
        await storer.store_missing([fresh.indexed])
        await storer.drain()
    assert recorded.keys("PUT") == (lose or ({name} if lost == "the new signature" else set()))
    sealed = seal_index(fresh.indexed.index, fresh.layer, NEW, packed=True)
    assert content_server.ask("GET", name).body == sealed
    for page, start in enumerate(range(0, len(fresh.payload), PAGE_BYTES)):
        body = content_server.ask("GET", page_key(fresh.key, page)).body
        assert body == fresh.payload[start : start + PAGE_BYTES]
