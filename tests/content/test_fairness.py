"""One connection that always has a request ready takes its turn like the others."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from clipfs.content.connection import Connection, Request
from clipfs.content.counters import Counters
from clipfs.content.deadlines import Watch
from clipfs.content.wire import PlainWire


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def test_a_flood_of_pipelined_requests_starves_no_other_connection() -> None:
    answered: list[str] = []
    done = trio.Event()

    async def respond(http: Connection, request: Request) -> None:
        answered.append(request.target)
        await http.answer(200, "")
        if answered.count("/other") == 5:
            done.set()

    async def serve(sock: socket.socket) -> None:
        watch = Watch()
        with watch.connection() as deadline:
            connection = Connection(PlainWire(sock), deadline, Counters(1).parent)
            await connection.run(respond, watch)

    with connected() as (flooded, flood), connected() as (quiet, other):
        flood.sendall(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        other.sendall(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, flooded)
            nursery.start_soon(serve, quiet)
            await done.wait()
            nursery.cancel_scope.cancel()
    assert answered.count("/flood") <= 20
