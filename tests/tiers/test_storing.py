"""Storing: whole layers, pages before index, only verified bytes, never in a reader's way."""

import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from clipfs.layer.index import Entry, EntryKind, PackedEntries
from clipfs.layer.layout import Layout
from clipfs.tiers import derived
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.storer import Outcome, Storer, store_layer
from clipfs.tiers.storing import left_behind, mark_storing, storing_now
from clipfs.tiers.tier import IndexedLayer
from tests.support.content import READ_TOKEN, TOKEN, ContentServer, run_content_server
from tests.support.damage import flipped
from tests.support.hostile import answers, hostile_server
from tests.support.memory_store import MemoryStore
from tests.support.recording_proxy import recording_proxy
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, made_layout

NOT_STORED = "layer was not stored in ContentCache"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path / "root")


@pytest.fixture
def own(tmp_path: Path, layout: Layout) -> Sample:
    """A layer of two pages, complete on disk and nowhere else."""
    made = make_sample(
        tmp_path / "tar", content_bytes=9 << 20, seed=int.from_bytes(os.urandom(4), "little")
    )
    layout.payload(made.key).write_bytes(made.payload)
    return made


@pytest.fixture
async def cache(content_server: ContentServer) -> AsyncIterator[Replicas]:
    async with Replicas.open([content_server.url], token=TOKEN) as client:
        yield client


async def test_pages_go_first_and_the_index_last(
    own: Sample, content_server: ContentServer
) -> None:
    with recording_proxy(content_server.port) as recorder:
        async with Replicas.open([recorder.url], token=TOKEN) as client:
            assert await store_layer(client, KEYS, own.indexed, own.tar) is Outcome.STORED
    asked = [(method, key.removeprefix(own.key), status) for method, key, status in
             recorder.exchanges if method == "PUT"]  # fmt: skip
    assert sorted(asked[:-1]) == [("PUT", "/000000", 201), ("PUT", "/000001", 201)]
    assert asked[-1] == ("PUT", ".v1.toc", 201)


async def test_a_store_is_told_as_the_contract_says(own: Sample, cache: Replicas) -> None:
    with capture_logs() as lines:
        assert await store_layer(cache, KEYS, own.indexed, own.tar) is Outcome.STORED
    begun, done = lines
    assert begun["event"] == "Storing decompressed layer in ContentCache (async)"
    assert done["event"] == "Successfully stored decompressed layer in ContentCache"
    assert done["stored_hash"] == done["cache_key"] == own.key
    assert done["bytes"] == len(own.payload)


async def test_the_index_is_stored_as_a_fraction_of_itself(
    own: Sample, cache: Replicas, content_server: ContentServer
) -> None:
    files = (Entry(path=b"lib/module-%d.py" % n, kind=EntryKind.FILE, mode=0o644, size=n)
             for n in range(1000))  # fmt: skip # one thought
    raw_entries = PackedEntries(files).encoded()
    index = msgspec.structs.replace(own.indexed.index, raw_entries=raw_entries)
    layer = IndexedLayer(layer=own.layer, index=index)
    assert await store_layer(cache, KEYS, layer, own.tar) is Outcome.STORED
    stored_bytes = (content_server.objects / f"{own.key}.v1.toc").stat().st_size
    assert stored_bytes < len(raw_entries) / 4
    assert await ContentCacheTier(cache, KEYS).load_index(own.layer) == index


async def test_storing_what_is_stored_already_changes_nothing(own: Sample, cache: Replicas) -> None:
    for _ in range(2):
        assert await store_layer(cache, KEYS, own.indexed, own.tar) is Outcome.STORED


async def test_a_payload_that_the_disk_has_damaged_is_not_stored(
    own: Sample, layout: Layout, cache: Replicas, content_server: ContentServer
) -> None:
    path = layout.payload(own.key)
    path.write_bytes(flipped(own.payload, -1))
    with capture_logs() as lines:
        assert await store_layer(cache, KEYS, own.indexed, path) is Outcome.FAILED
    assert "damaged" in next(line for line in lines if line["event"] == NOT_STORED)["error"]
    assert not (content_server.objects / own.key / "000001").exists()
    assert await cache.get(f"{own.key}.v1.toc") is None


async def test_of_a_layer_whose_index_cannot_be_shared_nothing_is_stored(
    own: Sample, cache: Replicas, content_server: ContentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "MAX_SHARED_INDEX_BYTES", len(own.indexed.index.chunk_digests) - 1)
    with capture_logs() as lines:
        assert await store_layer(cache, KEYS, own.indexed, own.tar) is Outcome.REFUSED
    assert (
        "too large to be shared"
        in next(line for line in lines if line["event"] == NOT_STORED)["error"]
    )
    assert not (content_server.objects / own.key).exists()


class _SlowStore(MemoryStore):
    """Takes an index once a second one is on its way, and time for a third one to come."""

    on_their_way = 0
    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.two = trio.Event()

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        copies: Collection[str] | None = None,
    ) -> None:
        if key.endswith(".toc"):
            self.on_their_way += 1
            self.most = max(self.most, self.on_their_way)
            if self.most >= 2:
                self.two.set()
            await self.two.wait()
            await trio.sleep(0.05)
            self.on_their_way -= 1
        await MemoryStore.put(self, key, data, replaces=replaces, copies=copies)


async def test_an_image_of_many_layers_has_few_indexes_on_their_way(
    tmp_path: Path, layout: Layout
) -> None:
    layers = [make_sample(tmp_path / str(n), content_bytes=512, seed=n) for n in range(10)]
    for one in layers:
        layout.payload(one.key).write_bytes(one.payload)
    store = _SlowStore()
    async with trio.open_nursery() as nursery:
        storer = Storer(store, layout, KEYS, nursery)
        for one in layers[:5]:
            storer.publish_soon(one.indexed)
        for one in layers[5:]:
            storer.store_soon(one.indexed)
        await storer.drain()
    assert {f"{one.key}.v1.toc" for one in layers} <= set(store.objects)
    assert store.most == 2


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.REFUSED) for status in (400, 404, 409, 413)),
        *((status, Outcome.FAILED) for status in (500, 507)),
    ],
)
async def test_a_store_that_is_refused_is_a_warning(
    own: Sample, status: int, outcome: Outcome
) -> None:
    refusal = f"HTTP/1.1 {status} \r\nContent-Length: 0\r\n\r\n".encode()
    absent = answers(b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n")

    async def misbehave(stream: trio.SocketStream, head: bytes) -> None:
        await (absent if head.startswith(b"GET") else answers(refusal))(stream, head)

    async with hostile_server(misbehave) as server:
        async with Replicas.open([server.url], token=TOKEN) as client:
            with capture_logs() as lines:
                assert await store_layer(client, KEYS, own.indexed, own.tar) is outcome
        assert server.requests
    assert [line["log_level"] for line in lines if line["event"] == NOT_STORED] == ["warning"]


async def test_with_a_read_token_that_is_said_once_and_nothing_is_on_its_way(
    own: Sample, layout: Layout, content_server: ContentServer
) -> None:
    with capture_logs() as lines:
        async with (
            Replicas.open([content_server.url], token=READ_TOKEN) as client,
            trio.open_nursery() as nursery,
        ):
            storer = Storer(client, layout, KEYS, nursery)
            for _ in range(3):
                storer.store_soon(own.indexed)
            await storer.drain()
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert [line["event"] for line in warned] == [NOT_STORED]
    assert "may only read" in warned[0]["error"]
    assert storing_now(layout) == []
    assert list((layout.run / "storing").iterdir()) == []


async def test_a_layer_counts_as_on_its_way_until_it_is_stored(
    own: Sample, layout: Layout, cache: Replicas
) -> None:
    async with trio.open_nursery() as nursery:
        storer = Storer(cache, layout, KEYS, nursery)
        storer.store_soon(own.indexed)
        assert storing_now(layout) == [own.key]
        await storer.drain()
        assert storing_now(layout) == []
    assert await cache.get(f"{own.key}.v1.toc") is not None


async def test_a_layer_that_could_not_be_stored_is_left_for_the_next(
    own: Sample, layout: Layout
) -> None:
    async with (
        Replicas.open(["http://127.0.0.1:1"], token=TOKEN) as nowhere,
        trio.open_nursery() as nursery,
    ):
        storer = Storer(nowhere, layout, KEYS, nursery)
        storer.store_soon(own.indexed)
        await storer.drain()
    assert storing_now(layout) == []
    assert left_behind(layout, [own.indexed]) == [own.indexed]


async def test_only_what_is_on_the_node_and_not_in_the_content_cache_is_stored(
    own: Sample, layout: Layout, cache: Replicas, content_server: ContentServer, tmp_path: Path
) -> None:
    elsewhere = make_sample(tmp_path / "other", content_bytes=1 << 20, seed=7)
    with recording_proxy(content_server.port) as recorder:
        async with (
            Replicas.open([recorder.url], token=TOKEN) as client,
            trio.open_nursery() as nursery,
        ):
            storer = Storer(client, layout, KEYS, nursery)
            for _ in range(2):
                await storer.store_missing([own.indexed, elsewhere.indexed])
                await storer.drain()
    puts = [key for method, key, _ in recorder.exchanges if method == "PUT"]
    assert len(puts) == len(set(puts)) == 3
    assert await cache.get(f"{own.key}.v1.toc") is not None
    assert await cache.get(f"{elsewhere.key}.v1.toc") is None


@pytest.mark.parametrize(
    "mark",
    [
        pytest.param("4194304.1\n", id="no-such-pid"),  # above the kernel's highest
        pytest.param(f"{os.getpid()}.1\n", id="its-pid-is-anothers-by-now"),
        pytest.param(f"{os.getpid()}\n", id="without-a-start-time"),
        pytest.param("", id="cut-short"),
    ],
)
async def test_what_a_dead_process_was_to_store_is_left_for_the_next(
    own: Sample, layout: Layout, mark: str
) -> None:
    mark_storing(layout, own.key)
    assert left_behind(layout, [own.indexed]) == []
    (layout.run / "storing" / own.key).write_text(mark)
    assert storing_now(layout) == []
    assert left_behind(layout, [own.indexed, own.indexed]) == [own.indexed]
    layout.payload(own.key).unlink()
    assert left_behind(layout, [own.indexed]) == []


async def test_a_server_killed_in_the_middle_of_a_store_gets_the_rest_later(
    own: Sample, tmp_path: Path
) -> None:
    with run_content_server(tmp_path / "cc") as first:
        async with Replicas.open([first.url], token=TOKEN) as client:
            await client.put(f"{own.key}/000000", own.payload[: 8 << 20])
        first.kill()
        async with Replicas.open([first.url], token=TOKEN) as client:
            assert await store_layer(client, KEYS, own.indexed, own.tar) is Outcome.FAILED
    with run_content_server(tmp_path / "cc") as second:
        async with Replicas.open([second.url], token=TOKEN) as client:
            assert await store_layer(client, KEYS, own.indexed, own.tar) is Outcome.STORED
            rest = await client.get(f"{own.key}/000001")
            assert rest is not None
            assert bytes(rest.data) == own.payload[8 << 20 :]
