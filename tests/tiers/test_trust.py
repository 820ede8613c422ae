"""What comes from beyond the node is checked: each test here goes red without its check.

The pairs of checks and tests are in docs/security.md; tests/test_security_pairs.py runs them.
The servers are small ones that lie: a real registry or content cache would not.
"""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer.index import CHUNK_BYTES
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content_cache import ContentCacheTier
from clipfs.tiers.tier import Extent
from tests.support.content import TOKEN
from tests.support.damage import flipped
from tests.support.samples import Sample, make_sample
from tests.support.tier_stack import KEYS, opened_tiers
from tests.support.web import Asked, Reply, Responder, WebServer, run_web


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A layer of three chunks and a bit, whose blob is its payload."""
    return make_sample(tmp_path_factory.mktemp("small") / "tar", content_bytes=400_000)


def serves(blob: bytes) -> Responder:
    """A registry in which every blob is this one."""

    def respond(asked: Asked) -> Reply:
        if "range" in asked.headers:
            return Reply(206, {"Content-Range": f"bytes 0-0/{len(blob)}"}, blob[:1])
        return Reply(body=blob)

    return respond


def image_in(web: WebServer) -> str:
    return f"{web.address}/trust:1"


async def test_a_wrong_chunk_from_the_content_cache_is_never_served(small: Sample) -> None:
    with run_web(lambda _: Reply(206, body=bytes(CHUNK_BYTES))) as web:
        async with Replicas.open([f"http://{web.address}"], token=TOKEN) as cache:
            tier = ContentCacheTier(cache, KEYS)
            assert await tier.read(small.indexed, Extent(0, 100)) is None
    assert len(web.asked) == 1


async def test_a_wrong_chunk_from_the_registry_is_never_served(tmp_path: Path) -> None:
    large = make_sample(tmp_path / "tar", content_bytes=24 << 20)  # written before its end is seen
    with run_web(serves(flipped(large.payload, CHUNK_BYTES + 5))) as web:
        async with opened_tiers(tmp_path / "root", image_in(web)) as tiers:
            tiers.disk.save_index(large.layer, large.indexed.index)
            with pytest.raises(errors.CorruptImage):
                await tiers.chain.read(large.indexed, Extent(CHUNK_BYTES, 100))
    assert web.asked


async def test_a_blob_other_than_the_manifests_is_refused_though_its_payload_is_right(
    small: Sample, tmp_path: Path
) -> None:
    other = gzip.compress(small.payload, 1)
    layer = replace(small.layer, size=len(other))
    with run_web(serves(other)) as web:
        async with opened_tiers(tmp_path, image_in(web)) as tiers:
            with pytest.raises(errors.CorruptImage, match="a wrong blob"):
                await tiers.chain.load_index(layer)
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_payload_other_than_the_configs_is_refused_though_its_blob_is_right(
    small: Sample, tmp_path: Path
) -> None:
    layer = replace(small.layer, diff_id=Digest("sha256:" + "0" * 64))
    with run_web(serves(small.payload)) as web:
        async with opened_tiers(tmp_path, image_in(web)) as tiers:
            with pytest.raises(errors.CorruptImage, match="diff_id"):
                await tiers.chain.load_index(layer)
    assert list((tmp_path / "cache").iterdir()) == []


async def test_one_layer_is_downloaded_by_one_process_of_a_node_at_a_time(
    small: Sample, tmp_path: Path
) -> None:
    with run_web(serves(small.payload)) as web:
        async with (
            opened_tiers(tmp_path, image_in(web)) as one,
            opened_tiers(tmp_path, image_in(web)) as two,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(one.chain.load_index, small.layer)
            nursery.start_soon(two.chain.load_index, small.layer)
    assert len([asked for asked in web.asked if "range" not in asked.headers]) == 1
