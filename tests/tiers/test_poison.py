"""Whoever may write to tier 2 cannot make a node believe him: each lie is met, counted, and the
read is right; over HTTP and in an object store.

What a lying server does to an answer on its way is below, too; what a lying registry does,
in `tests/machine/test_hostile_tiers.py`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from clipfs.layer import index as layer_index
from clipfs.layer.index import CHUNK_BYTES, PackedEntries
from clipfs.layer.seal import KeyRing
from clipfs.layer.sealed_index import KIND, seal_index
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import PAGE_BYTES, page_key
from clipfs.tiers.tier import Extent
from tests.support.content import TOKEN, ContentServer
from tests.support.damage import flipped
from tests.support.faulty_registry import (
    Fault,
    FaultyRegistry,
    Spoil,
    cut_short,
    refused,
    relayed,
    silenced,
    without_ranges,
    wrong_at,
)
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import small_cache
from tests.support.tier2 import Tier2
from tests.support.tier_stack import KEYS, Counted, opened_tiers, store_sample
from tests.support.web import Asked, Reply, run_web

SEEDS = count(6000)
EXTENT = Extent(3 * CHUNK_BYTES - 50, 100)
"""Of two chunks of the first page."""

Poison = Callable[[Sample, Sample, bytes], bytes]
"""From the layer, another layer, and what stands under the key."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Sample]:
    home = tmp_path_factory.mktemp("pair")
    one, two = (
        make_sample(home / name, content_bytes=9 << 20, seed=next(SEEDS)) for name in ("a", "b")
    )
    return one, two


def _sealed(sample: Sample, **changes: object) -> bytes:
    """The sample's index under a right key, with a seal that says something else."""
    said = {"kind": KIND, "version": layer_index.VERSION, "name": sample.key} | changes
    return KEYS.seal(layer_index.encode(sample.indexed.index), **said)  # type: ignore[arg-type] # as the test says


def _lying_index(sample: Sample, other: Sample, _: bytes) -> bytes:
    """It says that the layer's chunks are the other's, and is right in all else but its key."""
    index = layer_index.make_index(
        payload_bytes=sample.indexed.index.payload_bytes,
        diff_id=sample.indexed.index.diff_id,
        chunk_digests=other.indexed.index.chunk_digests,
        entries=PackedEntries(),
    )
    return seal_index(index, sample.layer, KeyRing((b"an attacker's",)))


@contextmanager
def poisoned(tier2: Tier2, key: str, poison: Poison, one: Sample, two: Sample) -> Iterator[None]:
    """As it was again, after the block."""
    stood = tier2.read(key)
    assert stood
    tier2.write(key, poison(one, two, stood))
    try:
        yield
    finally:
        tier2.write(key, stood)


INDEXES: dict[str, Poison] = {
    "signed with another key": _lying_index,
    "one bit of the HMAC": lambda _, __, sealed: flipped(sealed, 12),
    "one bit of the content": lambda _, __, sealed: flipped(sealed, len(sealed) - 3),
    "of another version": lambda one, _, __: _sealed(one, version=layer_index.VERSION + 1),
    "of another kind": lambda one, _, __: _sealed(one, kind="origin"),
    "of another layer": lambda _, two, __: _sealed(two),
    "of another layer's payload": lambda one, two, __: seal_index(
        two.indexed.index, one.layer, KEYS
    ),
    "cut short": lambda _, __, sealed: sealed[:-1],
    "with something behind it": lambda _, __, sealed: sealed + b"\0",
    "garbage": lambda _, __, sealed: Random(1).randbytes(len(sealed)),
    "empty": lambda *_: b"",
}
PAGES: dict[str, Poison] = {
    "another layer's": lambda _, two, __: two.payload[:PAGE_BYTES],
    "another page of the layer": lambda one, _, __: one.payload[-PAGE_BYTES:],
    "one bit": lambda _, __, page: flipped(page, EXTENT.offset),
    "moved by one byte": lambda _, __, page: page[1:] + page[:1],
    "zeros": lambda _, __, page: bytes(len(page)),
    "garbage": lambda _, __, page: Random(2).randbytes(len(page)),
    "cut inside the range": lambda _, __, page: page[: EXTENT.end],
    "cut before the range": lambda _, __, page: page[:1000],
    "empty": lambda *_: b"",
}


@pytest.mark.parametrize("name", INDEXES)
async def test_a_false_index_is_met_and_counted_and_the_registrys_is_used(
    name: str, tier2: Tier2, pair: tuple[Sample, Sample], registry: RegistryServer, tmp_path: Path
) -> None:
    one, counted = pair[0], Counted()
    reference = one.push(registry.address, "poison/index:1")
    await store_sample(tier2.url, one)
    with poisoned(tier2, f"{one.key}.v1.toc", INDEXES[name], *pair):
        async with opened_tiers(
            tmp_path, reference, cache_url=tier2.url, hooks=counted.hooks
        ) as tiers:
            index = await tiers.chain.load_index(one.layer)
            assert index.chunk_digests == one.indexed.index.chunk_digests
            assert await tiers.chain.read(one.indexed, EXTENT) == one.bytes_of(EXTENT)
    assert counted.troubles == {"verify_failures": 1}
    assert counted.bytes["registry"] >= one.layer.size


async def test_who_waits_for_an_index_is_told_of_a_false_one_once_and_gets_the_other_copy(
    pair: tuple[Sample, Sample],
) -> None:
    one, key = pair[0], f"{pair[0].key}.v1.toc"
    counted: list[str] = []
    async with small_cache("content-0") as first, small_cache("content-1") as second:
        copies = {"content-0": first, "content-1": second}
        at, other = (copies[name] for name in in_order(key, copies))
        at.objects[key] = _lying_index(*pair, b"")
        async with Replicas.open([first.url, second.url], token=TOKEN) as cache:
            tier = ContentCacheTier(cache, KEYS, on_unverified=lambda: counted.append("index"))
            for _ in range(3):
                assert await tier.look_for_index(one.layer, False) is None
            assert counted == ["index"]
            other.objects[key] = seal_index(one.indexed.index, one.layer, KEYS)
            assert await tier.look_for_index(one.layer, True) == one.indexed.index
            at.objects[key] = b"another lie"
            assert await tier.look_for_index(one.layer, False) == one.indexed.index
    assert counted == ["index"] * 2


@pytest.mark.parametrize("name", PAGES)
async def test_a_false_page_is_met_and_counted_and_the_read_is_right(
    name: str, tier2: Tier2, pair: tuple[Sample, Sample], registry: RegistryServer, tmp_path: Path
) -> None:
    one, counted = pair[0], Counted()
    reference = one.push(registry.address, "poison/page:1")
    await store_sample(tier2.url, one)
    with poisoned(tier2, page_key(one.key, 0), PAGES[name], *pair):
        async with opened_tiers(
            tmp_path, reference, cache_url=tier2.url, hooks=counted.hooks
        ) as tiers:
            index = await tiers.chain.load_index(one.layer)
            assert index.chunk_digests == one.indexed.index.chunk_digests
            assert not counted.troubles
            assert await tiers.chain.read(one.indexed, EXTENT) == one.bytes_of(EXTENT)
    assert counted.troubles.total() == 1


def _of_another_range(upstream: str) -> Spoil:
    """The bytes behind those that were asked for, as if they were those."""

    def spoil(asked: Asked, _: Reply) -> Reply:
        first, last = map(int, asked.headers["range"].removeprefix("bytes=").split("-"))
        size = last + 1 - first
        moved = {**asked.headers, "range": f"bytes={first + size}-{last + size}"}
        return relayed(upstream, replace(asked, headers=moved))

    return spoil


BROKEN: dict[str, Callable[[str], Spoil]] = {
    "long": lambda _: lambda _, reply: replace(reply, body=reply.body + b"\0"),
    "cut": lambda _: cut_short(1000),
    "the whole object": without_ranges,
    "garbage": lambda _: lambda _, __: Reply(raw=Random(3).randbytes(5000)),
    "garbage behind a head": lambda _: lambda _, __: Reply(raw=b"HTTP/1.1 206 OK\r\n\r\ngarbage"),
    "without a length": lambda _: lambda _, __: Reply(raw=b"HTTP/1.1 206 OK\r\n\r\n"),
    "a length that is none": lambda _: (
        lambda _, __: Reply(raw=b"HTTP/1.1 206 OK\r\nContent-Length: 1e3\r\n\r\n")
    ),
    "nothing": lambda _: silenced,
    "a fault": lambda _: refused(500),
    "a redirect": lambda _: refused(307, {"Location": "/elsewhere"}),
}
"""Answers that say themselves that they are of no use."""

WRONG: dict[str, Callable[[str], Spoil]] = {
    "short": lambda _: lambda _, reply: replace(reply, body=reply.body[:-1]),
    "another range": _of_another_range,
    "one bit": lambda _: wrong_at(-1),
    "zeros": lambda _: lambda _, reply: replace(reply, body=bytes(len(reply.body))),
}
"""Answers that only the index can tell to be wrong."""


def _of_pages(asked: Asked) -> bool:
    return asked.method == "GET" and "/000" in asked.path


@contextmanager
def liar(
    server: ContentServer, lie: Callable[[str], Spoil], key: str
) -> Iterator[tuple[str, Fault]]:
    """The URL of a replica that key belongs to first, and answers as server but for every page."""
    upstream = f"127.0.0.1:{server.port}"
    other = json.loads(server.ask("GET", "/healthz").body)["id"]
    names = (f"liar {number}" for number in count())
    name = next(one for one in names if in_order(key, [one, other])[0] == one)
    lying = FaultyRegistry(upstream)
    lying.add(Fault(lambda asked: asked.path == "/healthz", _named(name), times=1000))
    fault = lying.add(Fault(_of_pages, lie(upstream), times=1000))
    with run_web(lying) as web:
        yield f"http://{web.address}", fault


def _named(name: str) -> Spoil:
    return lambda _, reply: replace(reply, body=json.dumps({"status": "ok", "id": name}).encode())


@pytest.mark.parametrize("name", [*BROKEN, *WRONG])
async def test_a_lie_on_the_way_is_met_and_counted_and_the_registry_gives_the_right_bytes(
    name: str,
    content_server: ContentServer,
    pair: tuple[Sample, Sample],
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    one, counted = pair[0], Counted()
    reference = one.push(registry.address, "poison/way:1")
    await store_sample(content_server.url, one)
    with liar(content_server, (BROKEN | WRONG)[name], one.key) as (url, fault):
        async with opened_tiers(tmp_path, reference, cache_url=url, hooks=counted.hooks) as tiers:
            await tiers.chain.load_index(one.layer)
            assert await tiers.chain.read(one.indexed, EXTENT) == one.bytes_of(EXTENT)
            assert fault.met >= 1
    assert counted.troubles == {"errors" if name in BROKEN else "verify_failures": 1}
    assert counted.bytes["registry"] > 0


@pytest.mark.parametrize("name", BROKEN)
async def test_a_lie_of_one_replica_is_counted_and_the_other_gives_the_right_bytes(
    name: str, content_server: ContentServer, pair: tuple[Sample, Sample]
) -> None:
    one, failures = pair[0], Counter[str]()
    await store_sample(content_server.url, one)
    whole = Extent(0, one.indexed.index.payload_bytes)
    with liar(content_server, BROKEN[name], page_key(one.key, 0)) as (url, fault):
        for _ in range(10):  # one that is late to say who it is, on a full machine, is not asked
            async with Replicas.open(
                [url, content_server.url], token=TOKEN, on_failure=lambda: failures.update(["any"])
            ) as cache:
                tier = ContentCacheTier(cache, KEYS, waits=True)
                assert await tier.read(one.indexed, whole) == one.payload
            if fault.met:
                break
    assert fault.met
    assert failures.total() >= 1
