"""Three real content caches, one process each, as one store."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import count, cycle

import pytest
import trio

from clipfs.layer.index import CHUNK_BYTES
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentRefused, MayNotStore, Progress
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import READ_TOKEN, ContentServer, key_of, run_content_server
from tests.support.ports import free_port
from tests.support.recording_proxy import recording_proxy
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, opened_replicas

LAYERS = count(1)
PROGRESS = Progress(downloaded_bytes=1, payload_bytes=2, total_bytes=3)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ContentServer]]:
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("replica") for _ in range(3)]
        yield [stack.enter_context(run_content_server(one)) for one in folders]


@pytest.fixture
async def store(servers: list[ContentServer]) -> AsyncIterator[Replicas]:
    async with opened_replicas(*servers) as replicas:
        yield replicas


@pytest.fixture
def layer() -> str:
    return key_of(next(LAYERS)).partition("/")[0]


async def test_a_layer_is_read_whole_whichever_replica_is_gone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sample: Sample = make_sample(tmp_path_factory.mktemp("tar") / "tar", content_bytes=40 << 20)
    extent = Extent(0, sample.indexed.index.payload_bytes)
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp("replica") for _ in range(3)]
        for gone in range(3):
            running = [stack.enter_context(run_content_server(one)) for one in folders]
            async with opened_replicas(*running) as store:
                stored = await store_layer(store, KEYS, sample.indexed, sample.tar)
                assert stored is Outcome.STORED
                running[gone].kill()
                tier = ContentCacheTier(store, KEYS, waits=True)
                assert await tier.load_index(sample.layer) is not None
                assert await tier.read(sample.indexed, extent) == sample.payload
            stack.close()


async def test_lazy_reads_go_on_while_one_replica_after_the_other_is_restarted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sample: Sample = make_sample(tmp_path_factory.mktemp("tar") / "tar", content_bytes=40 << 20)
    with ExitStack() as all_of_them:
        stacks = [all_of_them.enter_context(ExitStack()) for _ in range(3)]
        folders = [tmp_path_factory.mktemp("replica") for _ in stacks]
        running = [
            stack.enter_context(run_content_server(folder, port=free_port()))
            for stack, folder in zip(stacks, folders, strict=True)
        ]

        def restart(number: int) -> None:
            stacks[number].close()
            port = running[number].port
            stacks[number].enter_context(run_content_server(folders[number], port=port))

        async with opened_replicas(*running) as store:
            tier = ContentCacheTier(store, KEYS, waits=True)
            assert await store_layer(store, KEYS, sample.indexed, sample.tar) is Outcome.STORED
            wrong: list[Extent] = []

            async def read(chunks: Iterator[int]) -> None:
                for chunk in chunks:
                    extent = Extent(chunk * CHUNK_BYTES, CHUNK_BYTES)
                    if await tier.read(sample.indexed, extent) != sample.bytes_of(extent):
                        wrong.append(extent)

            chunks = cycle(range(sample.indexed.index.chunk_count - 1))
            async with trio.open_nursery() as readers:
                for _ in range(8):
                    readers.start_soon(read, chunks)
                for number in (0, 1, 2, 1):
                    await trio.to_thread.run_sync(restart, number)
                readers.cancel_scope.cancel()
    assert not wrong


async def test_a_claim_is_kept_renewed_seen_and_given_up(store: Replicas, layer: str) -> None:
    assert (await store.claim(layer, "me", Progress())).holder == "me"
    assert (await store.claim(layer, "me", PROGRESS)).holder == "me"
    seen = await store.claim(layer, "you", Progress())
    assert (seen.holder, seen.progress) == ("me", PROGRESS)
    await store.release(layer, "you")
    assert (await store.claim(layer, "you", Progress())).holder == "me"
    await store.release(layer, "me")
    assert (await store.claim(layer, "you", Progress())).holder == "you"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda store, key, _: store.put(f"{key}/000001", b"page"), id="put"),
        pytest.param(
            lambda store, key, etag: store.delete(f"{key}/000000", etag=etag), id="delete"
        ),
        pytest.param(lambda store, key, _: store.claim(key, "me", Progress()), id="claim"),
    ],
)
async def test_who_may_only_read_changes_and_claims_nothing_and_knows_it_then(
    change: Callable[[Replicas, str, str], Awaitable[None]],
    servers: list[ContentServer],
    store: Replicas,
    layer: str,
) -> None:
    await store.put(f"{layer}/000000", b"page")
    async with opened_replicas(*servers, token=READ_TOKEN) as reader:
        assert reader.may_store
        found = await reader.get(f"{layer}/000000")
        assert found is not None
        with pytest.raises(MayNotStore):
            await change(reader, layer, found.etag)
        assert not reader.may_store
        assert await reader.get(f"{layer}/000000") == found


async def test_an_index_is_replaced_by_who_has_seen_it(store: Replicas, layer: str) -> None:
    key = f"{layer}.v1.toc"
    await store.put(key, b"old")
    old = await store.get(key)
    assert old is not None
    await store.put(key, b"new", replaces=old.etag)
    new = await store.get(key)
    assert new is not None
    assert (bytes(new.data), new.etag == old.etag) == (b"new", False)
    with pytest.raises(ContentRefused):
        await store.put(key, b"newer", replaces=old.etag)
    with pytest.raises(ContentRefused):
        await store.put(key, b"newer")


async def test_an_object_is_removed_by_who_has_seen_it(store: Replicas, layer: str) -> None:
    key = f"{layer}/000000"
    await store.put(key, b"wrong")
    await store.delete(key, etag='"of another one"')
    found = await store.get(key)
    assert found is not None
    await store.delete(key, etag=found.etag)
    await store.delete(key, etag=found.etag)
    assert await store.get(key) is None
    await store.put(key, b"right")
    found = await store.get(key)
    assert found is not None
    assert found.data == b"right"


async def test_replicas_are_known_by_the_ids_that_they_tell_whatever_their_addresses(
    servers: list[ContentServer], store: Replicas
) -> None:
    """So what was stored is where it is looked for first."""
    keys = [key_of(next(LAYERS)) for _ in range(20)]
    for key in keys:
        await store.put(key, b"page")
    with ExitStack() as stack:
        elsewhere = [stack.enter_context(recording_proxy(one.port)) for one in servers]
        async with opened_replicas(*elsewhere) as other:
            for key in keys:
                assert await other.get(key) is not None
    exchanges = [one for proxy in elsewhere for one in proxy.exchanges]
    assert sorted(exchanges) == sorted(("GET", key, 200) for key in keys)
