"""The content cache by TLS: who is trusted, and by which name."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.image.tls import load_ca_file
from clipfs.tiers.content.exchange import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, MAX_CONNECTIONS
from clipfs.tiers.content.reading import RESTART_S
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentCacheDown
from tests.support.content import TOKEN, key_of, run_content_server
from tests.support.hostile import hostile_server, says_nothing
from tests.support.registry import Certificate, make_certificate
from tests.support.small_cache import SmallCache, small_cache

KEY = key_of(3)
PAGE = bytes(range(256)) * (1 << 12)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def ca_pem(certificate: Certificate) -> str:
    return load_ca_file(certificate.cert)


@pytest.fixture
async def cache(certificate: Certificate) -> AsyncIterator[SmallCache]:
    async with small_cache(tls=certificate) as running:
        yield running


async def test_objects_go_both_ways_on_connections_that_are_kept(
    cache: SmallCache, ca_pem: str
) -> None:
    async with Replicas.open([cache.url], token=TOKEN, ca_pem=ca_pem) as replicas:
        await replicas.put(KEY, PAGE)
        assert cache.objects[KEY] == PAGE
        for part in (range(len(PAGE)), range(1000, 300_000)):
            found = await replicas.get(KEY, part=part)
            assert found is not None
            assert found.data == PAGE[part.start : part.stop]
    assert cache.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_way_out(
    cache: SmallCache,
) -> None:
    cache.objects[KEY] = PAGE
    async with Replicas.open([cache.url], token=TOKEN) as replicas:
        with pytest.raises(ContentCacheDown, match=r"not trusted.*--ca-file"):
            await replicas.get(KEY)
    assert not cache.asked


async def test_a_certificate_of_another_name_is_refused(
    certificate: Certificate, ca_pem: str
) -> None:
    async with (
        small_cache(address="127.0.0.2", tls=certificate) as cache,
        Replicas.open([cache.url], token=TOKEN, ca_pem=ca_pem) as replicas,
    ):
        with pytest.raises(ContentCacheDown, match=r"not trusted.*127.0.0.2"):
            await replicas.get(KEY)
        assert not cache.asked


async def test_the_name_is_the_urls_and_not_the_address(cache: SmallCache, ca_pem: str) -> None:
    url = f"https://localhost:{cache.port}"  # an address that the certificate names
    async with Replicas.open([url], token=TOKEN, ca_pem=ca_pem) as replicas:
        with capture_logs() as lines, pytest.raises(ContentCacheDown):
            await replicas.get(KEY)
    assert "content cache unavailable" in [line["event"] for line in lines]
    assert not cache.asked


async def test_a_server_without_tls_is_down_and_is_told_no_token(ca_pem: str) -> None:
    async with small_cache() as cache:
        url = cache.url.replace("http:", "https:")
        async with Replicas.open([url], token=TOKEN, ca_pem=ca_pem) as replicas:
            with pytest.raises(ContentCacheDown):
                await replicas.get(KEY)
        assert not cache.asked


async def test_a_server_that_answers_a_handshake_with_words_is_down_with_the_way_out(
    tmp_path: Path, ca_pem: str
) -> None:
    with run_content_server(tmp_path) as server:
        url = server.url.replace("http:", "https:")
        async with Replicas.open([url], token=TOKEN, ca_pem=ca_pem) as replicas:
            with pytest.raises(ContentCacheDown, match=r"does not speak TLS.*http://"):
                await replicas.get(KEY)


async def test_a_server_with_tls_that_is_spoken_to_without_is_down_with_the_way_out(
    cache: SmallCache,
) -> None:
    url = cache.url.replace("https:", "http:")
    async with Replicas.open([url], token=TOKEN) as replicas:
        with pytest.raises(ContentCacheDown, match="if it speaks TLS, write https://"):
            await replicas.get(KEY)
    assert not cache.asked


async def test_a_server_that_never_shakes_hands_costs_the_time_to_connect(
    ca_pem: str, autojump_clock: MockClock
) -> None:
    async with hostile_server(says_nothing) as silent:
        url = silent.url.replace("http:", "https:")
        async with Replicas.open([url], token=TOKEN, ca_pem=ca_pem) as replicas:
            begin = trio.current_time()
            with pytest.raises(ContentCacheDown):
                await replicas.get(KEY, dear=True)
            assert silent.connections >= 1
            assert trio.current_time() - begin <= RESTART_S + CONNECT_TIMEOUT_S


async def test_a_server_that_stops_answering_costs_the_answer_timeout(
    cache: SmallCache, ca_pem: str, autojump_clock: MockClock
) -> None:
    cache.objects[KEY] = PAGE
    async with Replicas.open([cache.url], token=TOKEN, ca_pem=ca_pem) as replicas:
        found = await replicas.get(KEY, part=range(10))
        assert found is not None
        cache.pause_s = 3600
        begin = trio.current_time()
        with pytest.raises(ContentCacheDown):
            await replicas.get(KEY, part=range(len(PAGE)), dear=True)
        assert trio.current_time() - begin <= ANSWER_TIMEOUT_S + RESTART_S


async def test_many_readers_share_one_loop_and_each_gets_its_own_bytes(
    cache: SmallCache, ca_pem: str
) -> None:
    cache.objects[KEY] = PAGE
    wrong: list[range] = []
    async with Replicas.open([cache.url], token=TOKEN, ca_pem=ca_pem) as replicas:

        async def read(part: range) -> None:
            found = await replicas.get(KEY, part=part, dear=True)
            if found is None or found.data != PAGE[part.start : part.stop]:
                wrong.append(part)

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(read, range(number * 1000, len(PAGE) - number * 777))
    assert not wrong
    assert 1 < cache.connections <= MAX_CONNECTIONS
