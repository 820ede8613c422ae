"""One copy of a page has rotted on its replica's disk: it goes, and the good one stays."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.pages import page_key
from clipfs.tiers.storer import Outcome, store_layer
from clipfs.tiers.tier import Extent
from tests.support.content import TOKEN, ContentServer, run_content_server
from tests.support.recording_proxy import Recorder, recording_proxy
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS

SOME = Extent(0, 53_248)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("layer") / "tar", content_bytes=3 << 20, seed=81)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[ContentServer, ContentServer]]:
    with ExitStack() as stack:
        one, two = (stack.enter_context(run_content_server(tmp_path / name)) for name in "ab")
        yield one, two


@asynccontextmanager
async def opened(*replicas: ContentServer | Recorder) -> AsyncIterator[Replicas]:
    async with Replicas.open([one.url for one in replicas], token=TOKEN) as store:
        yield store


def rot(path: Path, at: int) -> None:
    """One bit flips; no system call wrote, so no time tells of it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0] ^ 1
        file.seek(at)
        file.write(bytes([byte]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_rotten_copy_goes_the_good_one_answers_and_is_put_in_its_place(
    layer: Sample, replicas: tuple[ContentServer, ContentServer]
) -> None:
    async with opened(*replicas) as store:
        assert await store_layer(store, KEYS, layer.indexed, layer.tar) is Outcome.STORED
        key = page_key(layer.key, 0)
        found = await store.get(key, part=range(1))
        assert found is not None
        (damaged,) = (one for one in replicas if one.url.endswith(found.copy))
        (good,) = (one for one in replicas if one is not damaged)
        rot(damaged.objects / key, 1000)
        etags = {one.ask("HEAD", key).headers["etag"] for one in replicas}
        assert len(etags) == 1, "a copy that rots keeps the ETag of the good one"
    with recording_proxy(damaged.port) as to_damaged, recording_proxy(good.port) as to_good:
        async with opened(to_damaged, to_good) as store, trio.open_nursery() as nursery:
            mender = Mender(store, nursery)
            wrong: list[str] = []
            tier = ContentCacheTier(
                store, KEYS, mender=mender, on_unverified=lambda: wrong.append("chunk")
            )
            assert await tier.read(layer.indexed, SOME) == layer.bytes_of(SOME)
            assert wrong == ["chunk"]
            await mender.drain()
    assert to_damaged.keys("DELETE") == {key}
    assert to_good.keys("DELETE") == set()
    for one in replicas:
        assert (one.objects / key).read_bytes() == layer.payload
