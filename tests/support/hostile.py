"""Servers that break the rules of HTTP, on loopback, inside the test's own trio."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

Misbehave = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@dataclass(slots=True)
class HostileServer:
    """`requests` are the heads that it got; `misbehave` answers them."""

    url: str
    misbehave: Misbehave
    requests: list[bytes]
    connections: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            while head := await _read_head(stream):
                self.requests.append(head)
                try:
                    await self.misbehave(stream, head)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return


@asynccontextmanager
async def hostile_server(misbehave: Misbehave) -> AsyncIterator[HostileServer]:
    """A server that hands each request to misbehave; it ends with the block."""
    async with trio.open_nursery() as nursery:
        server = HostileServer("", misbehave, [])

        async def serve(stream: trio.SocketStream) -> None:
            await server.serve(stream)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _read_head(stream: trio.SocketStream) -> bytes:
    """A head, and what of a small body came with it."""
    head = b""
    while b"\r\n\r\n" not in head:
        try:
            piece = await stream.receive_some(4096)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        if not piece:
            return b""
        head += piece
    return head


def answers(data: bytes, *, close: bool = False) -> Misbehave:
    """Sends data as it stands, whatever was asked."""

    async def misbehave(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(data)
        if close:
            await stream.aclose()

    return misbehave


async def says_nothing(stream: trio.SocketStream, _: bytes) -> None:
    await trio.sleep_forever()
