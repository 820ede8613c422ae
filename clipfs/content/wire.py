"""Bytes in and out of one connection, plain or in TLS.

A plain connection gets the bodies of objects by sendfile; TLS reads them from the file.

Not here: HTTP (`clipfs.content.connection`); how long anything may take (`deadlines`).
"""

import os
import socket
import ssl
from contextlib import suppress
from typing import Protocol

import trio

PIECE_BYTES = 256 << 10

_TURN_BYTES = 1 << 20
"""A connection whose client takes bytes as fast as they are sent gives way after so many."""

_TLS_PIECE_BYTES = 64 << 10
"""Encrypted at a time; OpenSSL keeps that much for each connection, in either direction."""

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
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view, flags) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def close(self) -> None:
        pass


class TlsWire:
    """TLS over a socket, in large pieces; the handshake is part of the first receive.

    One record is 16 KiB at most, and a system call for each is what TLS would cost most.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._plain = PlainWire(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def receive(self, most: int) -> bytes:
        while True:
            try:
                data = self._decrypted(most)
            finally:
                await self._flush()  # the handshake's words, and why it failed
            if data is not None:
                return data
            if received := await self._plain.receive(_TLS_PIECE_BYTES):
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    async def send(self, data: bytes) -> None:
        self._encrypt(data)
        await self._flush()

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        self._encrypt(head)
        given = 0
        for at in range(part.start, part.stop, _TLS_PIECE_BYTES):
            data = os.pread(fd, min(_TLS_PIECE_BYTES, part.stop - at), at)
            if not data:
                raise _shorter()
            self._encrypt(data)
            await self._flush()
            given += len(data)
            if given >= _TURN_BYTES:
                await trio.lowlevel.checkpoint()
                given = 0

    async def close(self) -> None:
        with trio.move_on_after(_GOODBYE_S), suppress(ssl.SSLError):
            try:
                self._tls.unwrap()
            finally:  # it waits for the client's goodbye, and we do not
                await self._flush()

    def _decrypted(self, most: int) -> bytes | None:
        """What has come, of several records; None: no whole one; b"": the client has ended."""
        found: list[bytes] = []
        size = 0
        try:
            while size < most and (data := self._tls.read(most - size)):
                found.append(data)
                size += len(data)
        except ssl.SSLWantReadError:
            if not found:
                return None
        except ssl.SSLEOFError:
            pass  # without a goodbye: HTTP knows its own end
        except ssl.SSLError as error:
            if not found:
                raise ConnectionError(f"TLS: {error.reason}") from error
        return b"".join(found)

    def _encrypt(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._tls.write(view) :]
            except ssl.SSLError as error:
                raise ConnectionError(f"TLS: {error.reason}") from error

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())


def _shorter() -> ConnectionError:
    return ConnectionError("an object is shorter than it was")
