"""A layer, an image of it and a content cache, for all tests of the tiers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.azurite import azurite
from tests.support.content import ContentServer, run_content_server
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server, s3_server, secure_s3
from tests.support.samples import Sample, make_sample
from tests.support.small_cache import IDS, SmallCache, small_caches
from tests.support.tier2 import Tier2, of_bucket, of_server

__all__ = ["azurite", "s3_server", "secure_s3"]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A layer of three pages, the last one short, and so the last chunk."""
    tar = tmp_path_factory.mktemp("sample") / "tar"
    return make_sample(tar, content_bytes=(17 << 20) + 70_000, codec="gzip")


@pytest.fixture(scope="session")
def image(sample: Sample, registry: RegistryServer) -> str:
    """A reference to an image of the sample, in the real registry."""
    return sample.push(registry.address, "tiers/sample:1")


@pytest.fixture(scope="session")
def content_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContentServer]:
    """A content cache; the tests share it, each with its own layers."""
    with run_content_server(tmp_path_factory.mktemp("content")) as server:
        yield server


@pytest.fixture
async def three() -> AsyncIterator[dict[str, SmallCache]]:
    """Small content caches by their ids."""
    async with small_caches(*IDS) as caches:
        yield caches


@pytest.fixture(params=["http", "s3"])
def tier2(
    request: pytest.FixtureRequest,
    content_server: ContentServer,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Tier2:
    """Of either kind, with a hand that writes past all rules."""
    if request.param == "http":
        return of_server(content_server)
    s3_server.use(monkeypatch)
    return of_bucket("shared")
