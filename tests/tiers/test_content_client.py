"""The content cache's client against servers that are slow, broken or hostile, and a real one.

Whatever a server does is a miss or `ContentCacheDown` within a bounded time.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from clipfs.tiers.content.connection import SMALL_BODY_BYTES
from clipfs.tiers.content.exchange import ANSWER_TIMEOUT_S, MAX_CONNECTIONS
from clipfs.tiers.content.replica import Replica
from clipfs.tiers.content.store import MAX_OBJECT_BYTES, ContentCacheDown, MayNotStore, Progress
from tests.support.content import READ_TOKEN, TOKEN, ContentServer, endpoint_of, key_of
from tests.support.hostile import Misbehave, answers, hostile_server, says_nothing
from tests.support.relay import OnPiece, relay
from tests.support.small_cache import small_cache

KEY = key_of(1)
RIGHT = b"HTTP/1.1 206 \r\nContent-Length: 5\r\n\r\nhello"
KEYS = itertools.count(100)
LARGE = bytes(SMALL_BODY_BYTES + 1)
"""Sent only where the server has said that it wants it."""


@asynccontextmanager
async def opened(url: str, token: str = TOKEN) -> AsyncIterator[Replica]:
    """A client of the server at url."""
    replica = Replica(endpoint_of(url), token=token)
    try:
        yield replica
    finally:
        replica.close()


async def got(replica: Replica, key: str, part: range | None = None) -> bytes | None:
    found = await replica.get(key, part=part)
    return None if found is None else bytes(found.data)


async def get(url: str) -> bytes | None:
    async with opened(url) as replica:
        return await got(replica, KEY, range(10, 15))


async def test_an_object_comes_back_whole_and_in_part(content_server: ContentServer) -> None:
    key = key_of(next(KEYS))
    data = bytes(range(256)) * 4000
    async with opened(content_server.url) as replica:
        assert await replica.get(key) is None
        await replica.put(key, data)
        await replica.put(key, data)
        assert await got(replica, key) == data
        assert await got(replica, key, part=range(1000, 200_000)) == data[1000:200_000]
        assert await replica.get(key_of(0)) is None


async def test_other_bytes_under_a_stored_key_are_refused_and_reads_go_on(
    content_server: ContentServer,
) -> None:
    key = key_of(next(KEYS))
    async with opened(content_server.url) as replica:
        await replica.put(key, b"first")
        with pytest.raises(ContentCacheDown, match="409"):
            await replica.put(key, b"other")
        assert await got(replica, key) == b"first"


@pytest.mark.parametrize("size", [10, 8 << 20])
async def test_a_token_that_may_only_read_stores_nothing_and_goes_on_reading(
    size: int, content_server: ContentServer
) -> None:
    key, other = key_of(next(KEYS)), key_of(next(KEYS))
    content_server.ask("PUT", key, b"here")
    async with opened(content_server.url, READ_TOKEN) as replica:
        assert replica.may_store
        for _ in range(3):
            with pytest.raises(MayNotStore):
                await replica.put(other, bytes(size))
            assert not replica.may_store
            assert await got(replica, key) == b"here"
        assert await replica.get(other) is None


async def test_after_a_refused_store_no_other_is_sent() -> None:
    refused = b"HTTP/1.1 403 \r\nContent-Length: 0\r\n\r\n"
    async with (
        hostile_server(answers(refused)) as server,
        opened(server.url) as replica,
    ):
        for _ in range(3):
            with pytest.raises(MayNotStore):
                await replica.put(KEY, LARGE)
        assert len(server.requests) == 1


async def test_a_full_disk_of_the_server_does_not_switch_reads_off() -> None:
    full = answers(b"HTTP/1.1 507 \r\nContent-Length: 5\r\n\r\nfull\n")

    async def misbehave(stream: trio.SocketStream, head: bytes) -> None:
        await (full(stream, head) if head.startswith(b"PUT") else stream.send_all(RIGHT))

    async with (
        hostile_server(misbehave) as server,
        opened(server.url) as replica,
    ):
        with pytest.raises(ContentCacheDown, match="507 full"):
            await replica.put(KEY, LARGE)
        assert await got(replica, KEY, part=range(5)) == b"hello"


@pytest.mark.parametrize(
    "misbehave",
    [
        pytest.param(answers(b"", close=True), id="closes without a word"),
        pytest.param(answers(b"HTTP/1.1 20", close=True), id="closes inside the head"),
        pytest.param(answers(RIGHT[:-1], close=True), id="closes inside the body"),
        pytest.param(answers(b"\x00\xff garbage \r\n\r\n"), id="garbage"),
        pytest.param(answers(b"x" * 20_000), id="a head without an end"),
        pytest.param(answers(b"HTTP/1.1 206 \r\n\r\nhello", close=True), id="no length"),
        pytest.param(answers(RIGHT.replace(b": 5", b": -5")), id="a negative length"),
        pytest.param(answers(RIGHT.replace(b": 5", b": 5\r\nContent-Length: 6")), id="two lengths"),
        pytest.param(answers(RIGHT.replace(b": 5", b": 4")), id="a byte too few"),
        pytest.param(answers(RIGHT.replace(b": 5", b": 6") + b"!"), id="a byte too many"),
        pytest.param(
            answers(RIGHT.replace(b": 5", b": 6\r\nETag: x") + b"!"), id="more than was asked for"
        ),
        pytest.param(answers(RIGHT + b"HTTP/1.1 200 \r\n"), id="more behind the body"),
        pytest.param(answers(RIGHT.replace(b": 5", b": 1000000000")), id="a gigabyte"),
        pytest.param(answers(RIGHT.replace(b"206", b"200")), id="ignores the range"),
        pytest.param(answers(RIGHT.replace(b"206", b"302")), id="a redirect"),
        pytest.param(answers(RIGHT.replace(b"206", b"100")), id="100 and a body"),
        pytest.param(
            answers(b"HTTP/1.1 206 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            id="chunked",
        ),
        pytest.param(answers(RIGHT.replace(b"206", b"401")), id="401"),
        pytest.param(answers(RIGHT.replace(b"206", b"500")), id="500"),
        pytest.param(answers(RIGHT.replace(b"206", b"416")), id="416"),
    ],
)
async def test_a_broken_answer_is_down_and_opens_the_breaker(misbehave: Misbehave) -> None:
    async with (
        hostile_server(misbehave) as server,
        opened(server.url) as replica,
    ):
        with pytest.raises(ContentCacheDown):
            await replica.get(KEY, part=range(10, 15))
        asked = len(server.requests)
        assert asked == 1
        with pytest.raises(ContentCacheDown, match="skipped"):
            await replica.get(KEY, part=range(10, 15))
        assert len(server.requests) == asked


async def test_nobody_listening_is_down() -> None:
    with pytest.raises(ContentCacheDown, match="Connection refused"):
        await get("http://127.0.0.1:1")


async def test_an_object_that_is_too_long_to_be_one_is_refused_by_its_head() -> None:
    head = b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n" % (MAX_OBJECT_BYTES + 1)
    async with hostile_server(answers(head)) as server, opened(server.url) as replica:
        with pytest.raises(ContentCacheDown, match="an answer of more than"):
            await replica.get(key_of(1, None))


async def test_a_server_that_never_answers_costs_the_answer_timeout(
    autojump_clock: MockClock,
) -> None:
    async with hostile_server(says_nothing) as server:
        begin = trio.current_time()
        with pytest.raises(ContentCacheDown):
            await get(server.url)
        assert trio.current_time() - begin == ANSWER_TIMEOUT_S


async def test_a_server_that_stops_inside_a_body_costs_the_answer_timeout(
    autojump_clock: MockClock,
) -> None:
    async with hostile_server(answers(RIGHT[:-1])) as server:
        begin = trio.current_time()
        with pytest.raises(ContentCacheDown):
            await get(server.url)
        assert trio.current_time() - begin == pytest.approx(ANSWER_TIMEOUT_S, abs=1e-5)


async def test_a_server_that_drips_costs_the_answer_timeout(autojump_clock: MockClock) -> None:
    async def drips(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(RIGHT[:-5].replace(b": 5", b": 1000"))
        for _number in range(1000):
            await stream.send_all(b"x")
            await trio.sleep(1)

    async with (
        hostile_server(drips) as server,
        opened(server.url) as replica,
    ):
        begin = trio.current_time()
        with pytest.raises(ContentCacheDown):
            await replica.get(KEY, part=range(1000))
        assert trio.current_time() - begin == pytest.approx(ANSWER_TIMEOUT_S, abs=1e-5)


async def test_a_hundred_readers_of_a_silent_server_wait_for_one_timeout_together(
    autojump_clock: MockClock,
) -> None:
    async with (
        hostile_server(says_nothing) as server,
        opened(server.url) as replica,
    ):
        begin, down = trio.current_time(), 0

        async def read() -> None:
            nonlocal down
            with pytest.raises(ContentCacheDown):
                await replica.get(KEY, part=range(5))
            down += 1

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(read)
        assert down == 100
        assert len(server.requests) == MAX_CONNECTIONS
        assert trio.current_time() - begin == ANSWER_TIMEOUT_S


@pytest.mark.parametrize("size", [10, len(LARGE)])
async def test_a_store_may_take_as_long_as_a_busy_disk(
    size: int, autojump_clock: MockClock
) -> None:
    async with small_cache() as cache, opened(cache.url) as replica:
        cache.pause_s = ANSWER_TIMEOUT_S + 1
        await replica.put(KEY, bytes(size))
        assert cache.objects[KEY] == bytes(size)


async def test_a_server_that_comes_back_is_asked_again(autojump_clock: MockClock) -> None:
    well = False

    async def recovers(stream: trio.SocketStream, _: bytes) -> None:
        await (stream.send_all(RIGHT) if well else stream.aclose())

    async with (
        hostile_server(recovers) as server,
        opened(server.url) as replica,
    ):
        with pytest.raises(ContentCacheDown):
            await replica.get(KEY, part=range(5))
        well = True
        await trio.sleep(60)
        assert await got(replica, KEY, part=range(5)) == b"hello"


async def test_one_connection_serves_request_after_request() -> None:
    async with (
        hostile_server(answers(RIGHT)) as server,
        opened(server.url) as replica,
    ):
        for _ in range(5):
            assert await got(replica, KEY, part=range(5)) == b"hello"
        assert server.connections == 1


async def test_a_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    async with (
        hostile_server(answers(RIGHT, close=True)) as server,
        opened(server.url) as replica,
    ):
        for number in range(1, 4):
            assert await got(replica, KEY, part=range(5)) == b"hello"
            assert server.connections == number


async def test_a_real_server_keeps_the_connection_that_gets_used(
    content_server: ContentServer,
) -> None:
    key = key_of(next(KEYS))
    content_server.ask("PUT", key, b"hello")
    connections: list[OnPiece] = []

    def on_connection() -> OnPiece:
        connections.append(lambda *_: None)
        return connections[-1]

    with relay(f"127.0.0.1:{content_server.port}", on_connection) as address:
        async with opened(f"http://{address}") as replica:
            for _ in range(3):
                await replica.get(key)
                await replica.put(key, b"hello")
                await replica.get(key_of(0))
    assert len(connections) == 1


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, len(RIGHT) - 1), max_size=8))
def test_an_answer_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(set(cuts)), len(RIGHT)]

    async def in_pieces(stream: trio.SocketStream, _: bytes) -> None:
        for start, end in itertools.pairwise(bounds):
            await stream.send_all(RIGHT[start:end])
            for _turn in range(3):  # let the client take it
                await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with hostile_server(in_pieces) as server:
            assert await get(server.url) == b"hello"

    trio.run(main)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 409 \r\nContent-Length: 2\r\n\r\n{}", id="held by nobody"),
        pytest.param(b"HTTP/1.1 409 \r\nContent-Length: 4\r\n\r\nheld", id="words"),
        pytest.param(b"HTTP/1.1 201 \r\nContent-Length: 2\r\n\r\n[]", id="a list"),
        pytest.param(b"HTTP/1.1 201 \r\nContent-Length: 0\r\n\r\n", id="nothing"),
        pytest.param(b"HTTP/1.1 409 \r\nContent-Length: 100000\r\n\r\n", id="far too much"),
        pytest.param(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", id="500"),
        pytest.param(b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", id="keeps no claims"),
    ],
)
async def test_a_claims_answer_that_makes_no_sense_is_no_claim(answer: bytes) -> None:
    async with hostile_server(answers(answer)) as server, opened(server.url) as replica:
        with pytest.raises(ContentCacheDown) as refused:
            await replica.claim(KEY, "me", Progress())
    assert "in time" not in str(refused.value)


async def test_an_id_that_makes_no_sense_is_none() -> None:
    for body in (b"ok", b"{}", b"[1]", b'{"id": 5}', b"\xff", b'{"x":' + b"[" * 60_000):
        answer = b"HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        async with hostile_server(answers(answer)) as server, opened(server.url) as replica:
            assert await replica.ask_id() == ""
