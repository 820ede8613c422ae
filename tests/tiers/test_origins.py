"""Origin records of a node: made by a pass that brought the right blob, shared, never forged."""

import errno
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.layer.origin import record_name, seal_record
from clipfs.layer.seal import KeyRing
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.origins import OriginRecords
from clipfs.tiers.stack import Tiers
from clipfs.tiers.storer import Storer
from clipfs.tiers.tier import IndexedLayer
from tests.support.content import READ_TOKEN, TOKEN, ContentServer
from tests.support.damage import DAMAGES
from tests.support.faulty_registry import Fault, FaultyRegistry, on_downloads, wrong_at
from tests.support.recording_proxy import recording_proxy
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import SmallCache, small_cache
from tests.support.tier2 import Tier2
from tests.support.tier_stack import (
    KEYS,
    NEW,
    OLD,
    made_layout,
    opened_store,
    opened_tiers,
    store_sample,
)
from tests.support.web import run_web
from tests.tiers.downloads import AT_ONCE, EITHER, NAME, mirrored_by, pull

HOST = "registry.example"
SEEDS = itertools.count(9000)


@pytest.fixture
def own(tmp_path: Path) -> Sample:
    """A layer that no other test knows."""
    return make_sample(tmp_path / "tar", content_bytes=300_000, seed=next(SEEDS))


@pytest.fixture
def own_image(own: Sample, registry: RegistryServer) -> str:
    return own.push(registry.address, f"tiers/origin-{own.key[-8:]}:1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path / "root")


def host_of(reference: str) -> str:
    return reference.partition("/")[0]


def records_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "index").glob("*.origin.*"))


async def stored(tiers: Tiers) -> None:
    assert tiers.storer is not None
    await tiers.storer.drain()


@EITHER
async def test_a_pass_over_the_right_blob_records_the_host_that_the_reference_names(
    indexed: bool, own: Sample, own_image: str, tmp_path: Path
) -> None:
    async with opened_tiers(tmp_path / "A", own_image) as tiers:
        assert not await tiers.proofs.has(own.layer, host_of(own_image))
        await pull(tiers, own, indexed=indexed)
        assert await tiers.proofs.has(own.layer, host_of(own_image))
        assert not await tiers.proofs.has(own.layer, HOST)
    assert records_in(tmp_path / "A") == [record_name(own.key, host_of(own_image))]


@EITHER
async def test_a_wrong_blob_records_nothing(
    indexed: bool, own: Sample, own_image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    proxy = FaultyRegistry(registry.address)
    fault = proxy.add(Fault(on_downloads, wrong_at(-1), times=9))
    with run_web(proxy) as web:
        reference = own_image.replace(registry.address, web.address)
        async with opened_tiers(tmp_path / "A", reference, retry=AT_ONCE) as tiers:
            with pytest.raises(errors.CorruptImage):
                await pull(tiers, own, indexed=indexed)
            assert not await tiers.proofs.has(own.layer, web.address)
    assert fault.met
    assert records_in(tmp_path / "A") == []


@EITHER
async def test_a_mirrors_blob_is_that_of_the_registry_which_the_reference_names(
    indexed: bool, own: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    own.push(registry.address, NAME)
    mirrors = mirrored_by(registry.address, tmp_path / "mirrors")
    async with opened_tiers(tmp_path / "A", f"127.0.0.1:1/{NAME}", mirrors=mirrors) as tiers:
        await pull(tiers, own, indexed=indexed)
    assert records_in(tmp_path / "A") == [record_name(own.key, "127.0.0.1:1")]


async def test_what_comes_from_the_content_cache_alone_is_recorded_by_nobody(
    own: Sample, own_image: str, content_server: ContentServer, tmp_path: Path
) -> None:
    await store_sample(content_server.url, own)
    async with opened_tiers(tmp_path / "B", own_image, cache_url=content_server.url) as tiers:
        await tiers.chain.load_index(own.layer)
        await tiers.chain.complete(own.indexed)
        assert not await tiers.proofs.has(own.layer, host_of(own_image))
    assert records_in(tmp_path / "B") == []


async def test_another_node_has_the_record_from_tier_2_and_keeps_it(
    own: Sample, own_image: str, tier2: Tier2, tmp_path: Path
) -> None:
    host = host_of(own_image)
    async with opened_tiers(tmp_path / "A", own_image, cache_url=tier2.url) as tiers:
        await tiers.chain.load_index(own.layer)
        await stored(tiers)
    async with opened_tiers(tmp_path / "B", own_image, cache_url=tier2.url) as tiers:
        assert not await tiers.proofs.has(own.layer, HOST)
        assert await tiers.proofs.has(own.layer, host)
    async with opened_tiers(tmp_path / "B", own_image) as tiers:
        assert await tiers.proofs.has(own.layer, host)


async def test_tier_2_is_asked_only_for_what_the_disk_does_not_know(
    own: Sample, own_image: str, content_server: ContentServer, tmp_path: Path
) -> None:
    with recording_proxy(content_server.port) as recorder:
        async with opened_tiers(tmp_path / "A", own_image, cache_url=recorder.url) as tiers:
            tiers.disk.origins.add(own.layer, HOST)
            assert await tiers.proofs.has(own.layer, HOST)
    assert recorder.exchanges == []


async def test_a_record_is_one_more_object_and_stored_once(
    own: Sample, own_image: str, content_server: ContentServer, tmp_path: Path
) -> None:
    with recording_proxy(content_server.port) as recorder:
        for _ in range(2):
            async with opened_tiers(tmp_path / "A", own_image, cache_url=recorder.url) as tiers:
                index = await tiers.chain.load_index(own.layer)
                await stored(tiers)
                assert tiers.storer is not None
                await tiers.storer.store_missing([IndexedLayer(layer=own.layer, index=index)])
                await stored(tiers)
    puts = [key.removeprefix(own.key) for method, key, _ in recorder.exchanges if method == "PUT"]
    assert puts == [record_name("", host_of(own_image)), ".v1.toc", "/000000"]


async def test_a_record_that_tier_2_has_lost_is_stored_again(
    own: Sample, tier2: Tier2, tmp_path: Path
) -> None:
    await store_sample(tier2.url, own)
    assert tier2.read(record_name(own.key, HOST)) is None
    async with opened_tiers(tmp_path / "A", "127.0.0.1:1/x", cache_url=tier2.url) as tiers:
        tiers.disk.layout.payload(own.key).write_bytes(own.payload)
        tiers.disk.origins.add(own.layer, HOST)
        assert tiers.storer is not None
        await tiers.storer.store_missing([own.indexed])
        await stored(tiers)
    assert tier2.read(record_name(own.key, HOST)) == seal_record(own.layer, HOST, KEYS)


async def test_with_a_read_token_none_is_stored(
    own: Sample, own_image: str, content_server: ContentServer, tmp_path: Path
) -> None:
    async with opened_tiers(
        tmp_path / "A", own_image, cache_url=content_server.url, token=READ_TOKEN
    ) as tiers:
        await tiers.chain.load_index(own.layer)
        await stored(tiers)
        assert await tiers.proofs.has(own.layer, host_of(own_image))
    assert list(content_server.objects.glob(f"{own.key}*")) == []


async def test_a_fresh_record_of_an_old_layer_is_published_by_itself(
    own: Sample, content_server: ContentServer, layout: Layout
) -> None:
    """As after a download that was made for the proof alone."""
    await store_sample(content_server.url, own)
    with recording_proxy(content_server.port) as recorder:
        async with (
            Replicas.open([recorder.url], token=TOKEN) as store,
            trio.open_nursery() as nursery,
        ):
            OriginRecords(layout, KEYS).add(own.layer, HOST)
            Storer(store, layout, KEYS, nursery).publish_soon(own.indexed)
    assert recorder.keys("PUT") == {record_name(own.key, HOST)}


@pytest.mark.parametrize(
    ("signer", "verifier", "found"),
    [
        pytest.param(KEYS, KEYS, True, id="the same key"),
        pytest.param(OLD, NEW, True, id="an older key"),
        pytest.param(KeyRing((b"not ours",)), KEYS, False, id="another cluster's key"),
    ],
)
def test_a_record_on_disk_is_believed_if_one_of_our_keys_signed_it(
    signer: KeyRing, verifier: KeyRing, found: bool, layout: Layout, own: Sample
) -> None:
    OriginRecords(layout, signer).add(own.layer, HOST)
    records = OriginRecords(layout, verifier)
    assert records.hosts(own.layer) == ([HOST] if found else [])
    assert records.has(own.layer, HOST) is found
    if found:  # it is signed with the first key from now on
        sealed = (layout.index / record_name(own.key, HOST)).read_bytes()
        assert sealed == seal_record(own.layer, HOST, KeyRing(verifier.keys[:1]))


def wrong_record(kind: str, own: Sample, other: Sample) -> bytes:
    return {
        "empty": b"",
        "garbage": b"garbage" * 1000,
        "another cluster's": seal_record(own.layer, HOST, KeyRing((b"not ours",))),
        "another layer's": seal_record(other.layer, HOST, KEYS),
        "another host's": seal_record(own.layer, "evil.example", KEYS),
    }[kind]


WRONG = pytest.mark.parametrize(
    "kind", ["empty", "garbage", "another cluster's", "another layer's", "another host's"]
)


@WRONG
def test_a_wrong_record_on_disk_is_a_miss_and_is_replaced(
    kind: str, own: Sample, sample: Sample, layout: Layout
) -> None:
    records = OriginRecords(layout, KEYS)
    path = layout.index / record_name(own.key, HOST)
    path.write_bytes(wrong_record(kind, own, sample))
    with capture_logs() as lines:
        assert not records.has(own.layer, HOST)
    assert [one["event"] for one in lines] == ["origin record does not verify, it proves nothing"]
    assert records.hosts(own.layer) == []
    records.add(own.layer, HOST)
    assert records.has(own.layer, HOST)


@WRONG
async def test_a_wrong_record_in_tier_2_is_a_miss_counted_and_replaced_by_who_has_the_layer(
    kind: str, own: Sample, sample: Sample, tier2: Tier2, tmp_path: Path
) -> None:
    name = record_name(own.key, HOST)
    tier2.write(name, wrong_record(kind, own, sample))
    async with opened_tiers(tmp_path / "B", "127.0.0.1:1/x", cache_url=tier2.url) as tiers:
        with capture_logs() as lines:
            assert not await tiers.proofs.has(own.layer, HOST)
        assert "origin record from the content cache does not verify" in [
            one["event"] for one in lines if one["log_level"] == "warning"
        ]
        assert records_in(tmp_path / "B") == []
        tiers.disk.origins.add(own.layer, HOST)
        assert tiers.storer is not None
        tiers.disk.layout.payload(own.key).write_bytes(own.payload)
        tiers.storer.store_soon(own.indexed)
        await stored(tiers)
    assert tier2.read(name) == seal_record(own.layer, HOST, KEYS)


async def test_a_record_of_an_older_key_in_tier_2_is_signed_again(
    own: Sample, tier2: Tier2
) -> None:
    name = record_name(own.key, HOST)
    tier2.write(name, seal_record(own.layer, HOST, OLD))
    async with opened_store(tier2.url) as store, trio.open_nursery() as nursery:
        mender = Mender(store, nursery)
        assert await ContentCacheTier(store, NEW, mender=mender).has_origin(own.layer, HOST)
        await mender.drain()
    assert tier2.read(name) == seal_record(own.layer, HOST, KEYS)


@pytest.fixture
async def two() -> AsyncIterator[list[SmallCache]]:
    """Two replicas: each has all."""
    async with small_cache("content-0") as one, small_cache("content-1") as other:
        yield [one, other]


@pytest.mark.parametrize("first", ["wrong", "lost", "of an older key"])
async def test_a_record_is_mended_from_the_second_copy(
    first: str, two: list[SmallCache], own: Sample
) -> None:
    name, right = record_name(own.key, HOST), seal_record(own.layer, HOST, KEYS)
    stand = {
        "wrong": seal_record(own.layer, "evil.example", KEYS),
        "of an older key": seal_record(own.layer, HOST, OLD),
    }
    for one in two:
        one.objects[name] = right
    async with (
        Replicas.open([one.url for one in two], token=TOKEN) as store,
        trio.open_nursery() as nursery,
    ):
        found = await store.get(name)
        assert found is not None
        spoilt = next(one for one in two if one.url.endswith(found.copy))
        del spoilt.objects[name]
        if first in stand:
            spoilt.objects[name] = stand[first]
        mender, counted = Mender(store, nursery), list[str]()
        tier = ContentCacheTier(
            store, NEW, mender=mender, on_unverified=lambda: counted.append("record")
        )
        assert await tier.has_origin(own.layer, HOST)
        await mender.drain()
    assert counted == (["record"] if first == "wrong" else [])
    assert [one.objects[name] for one in two] == [right, right]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_stands_in_a_records_place_is_a_miss_and_set_aside(
    damage: str, own: Sample, layout: Layout
) -> None:
    records = OriginRecords(layout, KEYS)
    records.add(own.layer, HOST)
    DAMAGES[damage](layout.index / record_name(own.key, HOST))
    assert not records.has(own.layer, HOST)
    records.add(own.layer, HOST)
    assert records.has(own.layer, HOST)


@EITHER
async def test_a_disk_that_refuses_the_record_fails_no_pass(
    indexed: bool, own: Sample, own_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refusing(source: Path, target: Path) -> None:
        if ".origin." in Path(target).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refusing)
    with capture_logs() as lines:
        async with opened_tiers(tmp_path / "A", own_image) as tiers:
            await pull(tiers, own, indexed=indexed)
            assert tiers.disk.has_payload(own.indexed)
    assert "origin record was not kept" in [one["event"] for one in lines]
    assert list((tmp_path / "A/index").glob("*.tmp")) == []
    assert records_in(tmp_path / "A") == []
