"""What is counted of a read, and how long it took: once, by the tier that answered it.

Time passes only when a test lets it, in the middle of an answer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipfs.layer.index import CHUNK_BYTES
from clipfs.tiers import content_cache, disk, registry
from clipfs.tiers.content.store import Found
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import page_key
from clipfs.tiers.settings import TierHooks
from clipfs.tiers.tier import Extent
from tests.support.content import ContentServer
from tests.support.memory_store import MemoryStore
from tests.support.registry import RegistryServer
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, Counted, opened_tiers, store_sample


@dataclass(slots=True)
class Clock:
    """Stands in for the module `time` of the tiers."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (content_cache, disk, registry):
        monkeypatch.setattr(module, "time", found)
    return found


async def test_who_waits_for_a_fill_has_its_wait_in_the_registrys_time(
    sample: Sample, registry: RegistryServer, clock: Clock, tmp_path: Path
) -> None:
    reference = sample.push(registry.address, "tiers/times:1")
    counted = Counted()

    def on_download(count: int) -> None:
        clock.now += 1
        counted.hooks.on_download(count)

    hooks = TierHooks(on_read=counted.hooks.on_read, on_download=on_download)
    last = Extent(len(sample.payload) - 10, 10)
    async with opened_tiers(tmp_path, reference, hooks=hooks) as tiers:
        tiers.disk.save_index(sample.layer, sample.indexed.index)
        assert await tiers.chain.read(sample.indexed, last) == sample.bytes_of(last)
        (waited,) = counted.seconds["registry"]
        assert waited >= 1
        assert "disk" not in counted.seconds, "the registry has answered"
        await tiers.registry.complete(sample.indexed)
        await tiers.chain.read(sample.indexed, last)
    assert counted.seconds == {"registry": [waited], "disk": [0]}


class TwoCopies(MemoryStore):
    """Each answer takes 2 s, a removal 100 s. The first copy of everything is wrong."""

    clock: Clock

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        self.clock.now += 2
        found = await super().get(key, part=part)
        assert found is not None
        if not besides:
            return Found(bytearray(len(found.data)), found.etag, copy="first")
        return found

    async def delete(self, key: str, *, etag: str, copies: Collection[str] | None = None) -> None:
        self.clock.now += 100
        await super().delete(key, etag=etag, copies=copies)


async def test_each_answer_of_the_content_cache_has_its_own_time(
    clock: Clock, tmp_path: Path
) -> None:
    sample = make_sample(tmp_path / "tar", content_bytes=1 << 20, seed=77)
    store = TwoCopies(objects={page_key(sample.key, 0): sample.payload})
    store.clock = clock
    answers: list[tuple[int, float]] = []
    tier = ContentCacheTier(
        store, KEYS, on_received=lambda count, seconds: answers.append((count, seconds))
    )
    extent = Extent(5, 100)
    assert await tier.read(sample.indexed, extent) == sample.bytes_of(extent)
    assert answers == [(CHUNK_BYTES, 2), (CHUNK_BYTES, 2)]
    assert clock.now == 104, "the wrong copy was removed meanwhile"


async def test_a_layer_counts_as_indexed_where_its_first_pass_ran(
    content_server: ContentServer, registry: RegistryServer, tmp_path: Path
) -> None:
    sample = make_sample(tmp_path / "tar", content_bytes=1 << 20, seed=78)
    reference = sample.push(registry.address, "tiers/indexed:1")
    first, second = Counted(), Counted()
    async with opened_tiers(tmp_path / "A", reference, hooks=first.hooks) as tiers:
        for _ in range(2):
            await tiers.chain.load_index(sample.layer)
    await store_sample(content_server.url, sample)
    async with opened_tiers(
        tmp_path / "B", reference, cache_url=content_server.url, hooks=second.hooks
    ) as tiers:
        await tiers.chain.load_index(sample.layer)
    assert (first.indexed, second.indexed) == (1, 0)
    assert dict(first.seconds) == {}, "a pass is no read"
