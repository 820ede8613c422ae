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
"""After so many bytes a connection gives way, though its client takes more."""

_TLS_PIECE_BYTES = 64 << 10
"""Encrypted at a time; OpenSSL keeps that much for each connection, in either direction."""

_CLOSE_NOTIFY_S = 1
"""How long a client may take to make room for TLS's last record."""


class Wire(Protocol):
    """One connection's transport; errors are OSError and trio.BrokenResourceError."""

    async def receive(self, most: int) -> bytes:
        """The next bytes, at most so many; b"" if the client has ended."""

    async def send(self, data: bytes) -> None: ...

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        """Send head, and then these bytes of the file."""

    async def close(self) -> None:
        """Send the protocol's end, if it has one (TLS close_notify); the socket stays open."""


class PlainWire:
    """A socket that never blocks.

    It gives way before it reads: after the others' turn this client's bytes are often there,
    which saves waiting for the socket.
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
                raise _truncated()
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
    """TLS over a socket; the handshake is part of the first receive.

    Several records are sent and received at once: a record has 16 KiB at most, and a system call
    for each would cost more than the encryption.
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
                await self._flush()  # the handshake's records, and the alert if it failed
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
                raise _truncated()
            self._encrypt(data)
            await self._flush()
            given += len(data)
            if given >= _TURN_BYTES:
                await trio.lowlevel.checkpoint()
                given = 0

    async def close(self) -> None:
        with trio.move_on_after(_CLOSE_NOTIFY_S), suppress(ssl.SSLError):
            try:
                self._tls.unwrap()
            finally:  # unwrap wants the client's close_notify too; nobody waits for that
                await self._flush()

    def _decrypted(self, most: int) -> bytes | None:
        """The bytes of whole records; None: there is no whole one; b"": the client has ended."""
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
            pass  # without close_notify: HTTP knows its own end
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


def _truncated() -> ConnectionError:
    return ConnectionError("the object's file ends early")
