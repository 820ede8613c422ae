"""An object store as tier 2 that holds wrong things: removed, stored again, signed again."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import layer_index_name
from clipfs.layer.sealed_index import seal_index
from clipfs.tiers.content.bucket_opening import open_object_store
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.objectstore import ObjectStore
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import PAGE_BYTES, page_key
from clipfs.tiers.storer import Outcome, Storer, store_layer
from clipfs.tiers.tier import Extent
from tests.support.s3_server import S3Server
from tests.support.samples import Sample
from tests.support.tier_stack import KEYS, NEW, OLD, made_layout

SOME = Extent(3 * CHUNK_BYTES + 5, 100)
PREFIXES = itertools.count(1)


@pytest.fixture
async def store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
    s3_server.use(monkeypatch)
    async with open_object_store(f"s3://shared/mending/{next(PREFIXES)}") as opened:
        yield opened


async def version_of(store: ObjectStore, key: str) -> str | None:
    found = await store.get(key)
    return None if found is None else found.etag


async def replaced(store: ObjectStore, key: str, data: bytes) -> None:
    etag = await version_of(store, key)
    assert etag is not None
    await store.delete(key, etag=etag)
    await store.put(key, data)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(bytes(PAGE_BYTES), id="zeros"),
        pytest.param(bytes(3 * CHUNK_BYTES + 50), id="cut within the chunk"),
        pytest.param(bytes(1000), id="cut before the chunk"),
        pytest.param(b"", id="empty"),
    ],
)
async def test_a_wrong_page_is_counted_gone_and_alone_stored_again(
    wrong: bytes, store: ObjectStore, sample: Sample, tmp_path: Path
) -> None:
    assert await store_layer(store, KEYS, sample.indexed, sample.tar) is Outcome.STORED
    keys = [page_key(sample.key, page) for page in range(3)]
    await replaced(store, keys[0], wrong)
    kept = [await version_of(store, key) for key in keys[1:]]
    counted: list[str] = []
    tier = ContentCacheTier(store, KEYS, on_unverified=lambda: counted.append("chunk"))
    assert await tier.read(sample.indexed, SOME) is None
    assert counted == ["chunk"]
    assert [await store.lacking(key) != [] for key in keys] == [True, False, False]
    layout = made_layout(tmp_path)
    layout.payload(sample.key).write_bytes(sample.payload)
    async with trio.open_nursery() as nursery:
        storer = Storer(store, layout, KEYS, nursery)
        await storer.store_missing([sample.indexed])
        await storer.drain()
    assert await tier.read(sample.indexed, SOME) == sample.bytes_of(SOME)
    assert [await version_of(store, key) for key in keys[1:]] == kept


async def test_an_index_of_an_older_key_is_signed_again(store: ObjectStore, sample: Sample) -> None:
    assert await store_layer(store, OLD, sample.indexed, sample.tar) is Outcome.STORED
    async with trio.open_nursery() as nursery:
        mender = Mender(store, nursery)
        tier = ContentCacheTier(store, NEW, mender=mender)
        assert await tier.load_index(sample.layer) == sample.indexed.index
        await mender.drain()
    found = await store.get(layer_index_name(sample.key))
    assert found is not None
    assert found.data == seal_index(sample.indexed.index, sample.layer, NEW, packed=True)


async def test_a_forged_index_is_replaced_by_who_has_the_layer(
    store: ObjectStore, sample: Sample
) -> None:
    await store.put(layer_index_name(sample.key), b"forged")
    assert await ContentCacheTier(store, KEYS).load_index(sample.layer) is None
    assert await store_layer(store, KEYS, sample.indexed, sample.tar) is Outcome.STORED
    index = await ContentCacheTier(store, KEYS).load_index(sample.layer)
    assert index == sample.indexed.index
