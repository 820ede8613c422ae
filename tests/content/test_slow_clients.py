"""Clients that are slow or silent lose their connection; the clock is trio's, the sockets real."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from clipfs.content.connection import Connection, Request
from clipfs.content.counters import Counters
from clipfs.content.deadlines import HEAD_S, IDLE_S, Watch, transfer_s
from clipfs.content.wire import PlainWire

PAGE_BYTES = 8 << 20
GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
PAGE_S = transfer_s(PAGE_BYTES)
"""What a page may take; a second later the watch has looked."""


class Client:
    """The other end of a connection, and when the server closed it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.begun = trio.current_time()
        self.lasted_s = 0.0
        self.ended = trio.Event()


@asynccontextmanager
async def served(tmp_path: Path) -> AsyncIterator[Client]:
    """A connection to a server of one page, which takes any body too."""
    page = tmp_path / "page"
    page.write_bytes(bytes(PAGE_BYTES))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    watch, client = Watch(), Client(theirs)

    async def respond(http: Connection, request: Request) -> None:
        if request.method == "PUT":
            await http.receive(lambda _: None)
            return await http.answer(201, "")
        with page.open("rb") as file:
            size = [("Content-Length", str(PAGE_BYTES))]
            await http.answer_file(200, size, file.fileno(), range(PAGE_BYTES))

    async def serve() -> None:
        with ours, watch.connection() as deadline:
            counts = Counters(1).parent
            await Connection(PlainWire(ours), deadline, counts).run(respond, watch)
        client.lasted_s = trio.current_time() - client.begun
        client.ended.set()

    async with trio.open_nursery() as nursery:
        with theirs:
            nursery.start_soon(watch.run)
            nursery.start_soon(serve)
            yield client
        nursery.cancel_scope.cancel()


async def drip(client: Client, data: bytes, pause_s: float) -> None:
    """Send a byte after the other until the server has had enough."""
    for at in range(len(data)):
        if client.ended.is_set():
            return
        client.sock.send(data[at : at + 1])
        await trio.sleep(pause_s)


async def take(client: Client, most: int = 1 << 20) -> bytes:
    await trio.lowlevel.wait_readable(client.sock)
    return client.sock.recv(most)


async def test_a_connection_that_says_nothing_is_closed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        await client.ended.wait()
        assert IDLE_S <= client.lasted_s <= IDLE_S + 2


async def test_a_head_that_comes_byte_by_byte_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        await drip(client, b"GET /x HTTP/1.1\r\nX: " + b"x" * 1000, pause_s=1)
        assert HEAD_S <= client.lasted_s <= HEAD_S + 2


async def test_a_body_that_comes_byte_by_byte_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        client.sock.send(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n")
        await drip(client, bytes(1000), pause_s=1)
        assert PAGE_S <= client.lasted_s <= PAGE_S + 2


async def test_a_client_that_takes_nothing_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        client.sock.send(GET)
        await client.ended.wait()
        assert PAGE_S <= client.lasted_s <= PAGE_S + 2


async def test_a_client_that_takes_a_little_now_and_then_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        client.sock.send(GET)
        while not client.ended.is_set():
            await take(client, 1000)
            await trio.sleep(1)
        assert PAGE_S <= client.lasted_s <= PAGE_S + 2


async def test_a_client_that_is_slow_but_not_too_slow_gets_all(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as client:
        for _ in range(5):  # each request has its own time
            client.sock.send(GET)
            received = 0
            while received < PAGE_BYTES:
                received += len(await take(client))
                await trio.sleep(1)
        assert not client.ended.is_set()
        assert trio.current_time() - client.begun > PAGE_S
