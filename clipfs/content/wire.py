"""Bytes in and out of one connection, plain or in TLS.

A plain connection gets the bodies of objects by sendfile; TLS reads them from the file.

Not here: HTTP (`clipfs.content.connection`); how long anything may take (`deadlines`).
"""

import os
import socket
import ssl
from typing import Protocol

import trio

PIECE_BYTES = 256 << 10

_TURN_BYTES = 1 << 20
"""A connection whose client takes bytes as fast as they are sent gives way after so many."""

_GOODBYE_S = 1


class Wire(Protocol):
    """One connection's transport; errors are OSError and trio.BrokenResourceError."""

    async def receive(self, most: int) -> bytes:
        """What has come, at most so many bytes; b"" if the client has ended."""

    async def send(self, data: bytes) -> None: ...

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        """head, and then these bytes of the file."""

    async def close(self) -> None:
        """Say goodbye where the protocol has a word for it; the socket's owner closes it."""


class PlainWire:
    """A socket that never blocks.

    It gives way before it looks for bytes: by then the others have had their turn and this
    client has answered, which costs less than to wait for it by name.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recv(most)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)

    async def send(self, data: bytes) -> None:
        await self._send(data, 0)

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        await self._send(head, socket.MSG_MORE)
        at, end, given = part.start, part.stop, 0
        out = self._socket.fileno()
        while at < end:
            if given >= _TURN_BYTES:
                await trio.lowlevel.checkpoint()
                given = 0
            try:
                sent = os.sendfile(out, fd, at, min(end - at, _TURN_BYTES))
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
                given = 0
                continue
            if sent == 0:
                raise _shorter()
            at += sent
            given += sent

    async def _send(self, data: bytes, flags: int) -> None:
        while data:
            try:
                data = data[self._socket.send(data, flags) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def close(self) -> None:
        pass


class TlsWire:
    """TLS over a socket; the handshake is part of the first receive."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)

    async def receive(self, most: int) -> bytes:
        return bytes(await self._stream.receive_some(most))

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        await self._stream.send_all(head)
        for at in range(part.start, part.stop, PIECE_BYTES):
            data = os.pread(fd, min(PIECE_BYTES, part.stop - at), at)
            if not data:
                raise _shorter()
            await self._stream.send_all(data)

    async def close(self) -> None:
        with trio.move_on_after(_GOODBYE_S):
            await self._stream.aclose()


def _shorter() -> ConnectionError:
    return ConnectionError("an object is shorter than it was")
