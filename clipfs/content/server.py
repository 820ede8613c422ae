"""The content cache over HTTP: one task a connection, bodies by sendfile.

    GET, HEAD, PUT /v1/objects/<key>         GET /healthz

A token in `Authorization: Bearer` may write and read; a second one may only read. A client
that is slow, silent or wrong loses its own connection only.

Not here: files (`clipfs.content.store`); claims, DELETE, eviction, TLS and metrics.
Source: RFC 9110 (HTTP semantics), RFC 9530 (Content-Digest).
"""

import errno
import hmac
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h11
import structlog
import trio

from clipfs.content.ranges import Unsatisfiable, parse_range
from clipfs.content.store import Conflict, DigestMismatch, Found, Store, limit_of

log = structlog.get_logger()

MAX_HEAD_BYTES = 16 << 10
MAX_CONNECTIONS = 1024
IDLE_S = 75
"""A connection that says nothing for this long is closed; clients keep theirs for less."""

TRANSFER_S = 60
"""One read or write of a body may take this long."""

GRACE_S = 10
"""Requests in flight have this long to finish when the server is told to end."""

OBJECTS = "/v1/objects/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    write: str = field(repr=False)
    read: str | None = field(default=None, repr=False)

    def may(self, header: str | None) -> "tuple[bool, bool]":
        """Whether the bearer may read, and may write."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return False, False
        given = token.strip().encode()
        write = hmac.compare_digest(given, self.write.encode())
        read = self.read is not None and hmac.compare_digest(given, self.read.encode())
        return write or read, write


async def serve(
    store_folder: Path,
    host: str,
    port: int,
    tokens: Tokens,
    *,
    on_listening: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight within GRACE_S.

    on_listening  gets the address once connections are taken; port 0 is a free one
    """
    store = Store(store_folder)
    listeners = await trio.open_tcp_listeners(port, host=host)
    limit = trio.CapacityLimiter(MAX_CONNECTIONS)
    async with trio.open_nursery() as requests, trio.open_nursery() as accepting:
        for listener in listeners:
            accepting.start_soon(_accept, listener, requests, limit, store, tokens)
        bound = listeners[0].socket.getsockname()
        on_listening(bound[0], bound[1])
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        accepting.cancel_scope.cancel()
        requests.cancel_scope.deadline = trio.current_time() + GRACE_S


async def _accept(
    listener: trio.SocketListener,
    requests: trio.Nursery,
    limit: trio.CapacityLimiter,
    store: Store,
    tokens: Tokens,
) -> None:
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                    raise
                log.warning("a connection was not accepted", error=str(error))
                await trio.sleep(0.1)
                continue
            requests.start_soon(_guarded, stream, limit, store, tokens)


async def _guarded(
    stream: trio.SocketStream, limit: trio.CapacityLimiter, store: Store, tokens: Tokens
) -> None:
    """One connection; nothing that goes wrong in it reaches another."""
    try:
        async with stream:
            try:
                limit.acquire_nowait()
            except trio.WouldBlock:
                return
            try:
                await _Connection(stream, store, tokens).run()
            finally:
                limit.release()
    except (trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError, ConnectionError):
        pass
    except OSError as error:
        log.warning("a request failed", error=str(error))
    except Exception:
        log.exception("a request failed; this is a bug")


class _Connection:
    """The requests of one connection, one after another."""

    def __init__(self, stream: trio.SocketStream, store: Store, tokens: Tokens) -> None:
        self._stream = stream
        self._store = store
        self._tokens = tokens
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        while True:
            try:
                with trio.fail_after(IDLE_S):
                    event = await self._next()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._answer(error.error_status_hint, str(error), close=True)
                return
            if not isinstance(event, h11.Request):
                return
            await self._respond(event)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send_all(self._http.send(go_on) or b"")
            self._http.receive_data(await self._stream.receive_some(256 << 10))

    async def _respond(self, request: h11.Request) -> None:
        method, path = request.method, request.target.decode("ascii", "replace")
        headers = {bytes(k): v.decode("latin-1") for k, v in request.headers}
        if path == "/healthz" and method == b"GET":
            return await self._answer(200, "ok\n")
        key = path[len(OBJECTS) :] if path.startswith(OBJECTS) else ""
        may_read, may_write = self._tokens.may(headers.get(b"authorization"))
        if not may_read:
            extra = [("WWW-Authenticate", "Bearer")]
            return await self._answer(401, "a bearer token is needed\n", extra, close=True)
        limit = limit_of(key)
        if limit is None:
            return await self._answer(404, "no such resource\n", close=method == b"PUT")
        if method in (b"GET", b"HEAD"):
            return await self._get(key, headers.get(b"range"), head=method == b"HEAD")
        if method == b"PUT":
            if not may_write:
                return await self._answer(403, "this token may only read\n", close=True)
            return await self._put(key, limit, headers)
        await self._answer(405, "GET, HEAD, PUT\n", [("Allow", "GET, HEAD, PUT")], close=True)

    async def _get(self, key: str, range_header: str | None, *, head: bool) -> None:
        found = self._store.find(key)
        if found is None:
            log.debug("content not found", key=key)
            return await self._answer(404, "content not found\n", head=head)
        try:
            await self._send_object(found, range_header, head=head)
        finally:
            os.close(found.fd)

    async def _send_object(self, found: Found, range_header: str | None, *, head: bool) -> None:
        try:
            part = parse_range(range_header, found.size)
        except Unsatisfiable:
            extra = [("Content-Range", f"bytes */{found.size}")]
            return await self._answer(416, "no such range\n", extra, head=head)
        whole = part is None
        sent = range(found.size) if part is None else part
        headers = [
            ("Content-Length", str(len(sent))),
            ("Content-Type", "application/octet-stream"),
            ("Accept-Ranges", "bytes"),
            ("ETag", found.etag),
        ]
        if not whole:
            headers.append(("Content-Range", f"bytes {sent.start}-{sent.stop - 1}/{found.size}"))
        response = h11.Response(status_code=200 if whole else 206, headers=headers)
        await self._write(self._http.send(response) or b"", more=not head and bool(sent))
        if not head:
            with trio.fail_after(TRANSFER_S):
                await self._sendfile(found.fd, sent)
            self._http.send_with_data_passthrough(h11.Data(data=_Sized(len(sent))))  # type: ignore[arg-type] # only its length is looked at
        self._http.send(h11.EndOfMessage())

    async def _sendfile(self, fd: int, part: range) -> None:
        at, end, sock = part.start, part.stop, self._stream.socket
        while at < end:
            try:
                sent = os.sendfile(sock.fileno(), fd, at, end - at)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
                continue
            if sent == 0:
                raise ConnectionError("an object is shorter than it was")
            at += sent
        await trio.lowlevel.checkpoint()

    async def _write(self, data: bytes, *, more: bool) -> None:
        """Send a head; with more, let the kernel put the body's beginning into its packet."""
        sock = self._stream.socket
        sent = await sock.send(data, socket.MSG_MORE if more else 0)
        if sent < len(data):
            await self._stream.send_all(data[sent:])

    async def _put(self, key: str, limit: int, headers: dict[bytes, str]) -> None:
        length = headers.get(b"content-length")
        if length is None:
            return await self._answer(411, "Content-Length is needed\n", close=True)
        if int(length) > limit:
            return await self._answer(413, f"at most {limit} bytes\n", close=True)
        try:
            incoming = self._store.receive(
                key, size=int(length), content_digest=headers.get(b"content-digest")
            )
            with incoming:
                if not await self._receive(incoming.write):
                    return
                log.info(f"Store[ACK] ({length} bytes)", key=key)
                created = await trio.to_thread.run_sync(incoming.finish)
        except DigestMismatch as error:
            return await self._answer(400, f"{error}\n", close=True)
        except Conflict as error:
            return await self._answer(409, f"{error}\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("an object was not stored", key=key, error=str(error))
            return await self._answer(507, "the disk is full\n", close=True)
        log.debug(f"Added object: {key}")
        log.info(f"Store[OK] - [{key}]")
        await self._answer(201 if created else 200, "")

    async def _receive(self, write: Callable[[bytes], None]) -> bool:
        """Hand the request's body on; False if it broke off."""
        while True:
            with trio.fail_after(TRANSFER_S):
                event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return True
            if not isinstance(event, h11.Data):
                return False
            write(event.data)

    async def _answer(
        self,
        status: int,
        text: str,
        headers: list[tuple[str, str]] | None = None,
        *,
        head: bool = False,
        close: bool = False,
    ) -> None:
        """A small response; close where the request's body was not read."""
        body = text.encode()
        lines = [("Content-Length", str(len(body))), ("Content-Type", "text/plain")]
        if close:
            lines.append(("Connection", "close"))
        response = h11.Response(status_code=status, headers=[*lines, *(headers or [])])
        data = self._http.send(response) or b""
        if body and not head:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)
        if self._http.their_state is h11.SEND_BODY and not close:
            while not isinstance(await self._next(), h11.EndOfMessage | h11.ConnectionClosed):
                pass


class _Sized:
    """Stands for body bytes that sendfile has sent: h11 counts them by len."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
