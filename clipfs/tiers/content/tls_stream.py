"""TLS to a content cache: records go straight from the socket into the caller's buffer.

OpenSSL has the socket itself, so nothing is copied between it and us; trio's stream, made for any
transport, takes three times the CPU for bulk.

Not here: HTTP (`clipfs.tiers.content.connection`); who is trusted (`clipfs.image.tls`).
Source: Python's ssl, "Notes on non-blocking sockets".
"""

import socket
import ssl
from collections.abc import Callable
from typing import Self, TypeVar

import trio

TURN_BYTES = 1 << 20
"""A server that is always ahead of us gives way to other tasks after so many."""

T = TypeVar("T")


class TlsStream:
    """For one task at a time; open it with `TlsStream.open`. Whatever breaks it is an OSError."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._given = 0  # bytes since other tasks had their turn

    @classmethod
    async def open(cls, plain: trio.SocketStream, context: ssl.SSLContext, host: str) -> Self:
        """Shake hands with a server that proves to be host; plain is ours from now on."""
        sock = socket.socket(fileno=plain.socket.detach())
        sock.setblocking(False)  # for Python, which asks its object and not the kernel
        try:
            secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        except BaseException:
            sock.close()
            raise
        stream = cls(secured)
        try:
            await stream._done(secured.do_handshake)
        except BaseException:
            stream.close()
            raise
        return stream

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the beginning of buffer with what is there; how many bytes, 0 at the end."""
        at = await self._done(lambda: self._socket.recv_into(buffer))
        end = min(len(buffer), TURN_BYTES)
        try:
            while 0 < at < end and (count := self._socket.recv_into(buffer[at:end])):
                at += count
        except ssl.SSLWantReadError:
            pass
        self._given += at
        return at

    async def send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            sent = await self._done(lambda view=view: self._socket.send(view))  # type: ignore[misc] # mypy knows no default there
            view = view[sent:]
            self._given += sent

    def close(self) -> None:
        """Without a word to the server: HTTP has said all."""
        self._socket.close()

    async def _done(self, call: Callable[[], T]) -> T:
        """What call returns, once the socket is ready for it."""
        if self._given >= TURN_BYTES:
            self._given = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)
            self._given = 0
