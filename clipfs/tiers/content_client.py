"""Speaks HTTP to the content cache: the hot path, so sockets of our own and no client library.

A request is one send, a body goes straight into one buffer. Connections are kept and reused,
the last one first. Whatever goes wrong is `ContentCacheDown`: tier 2 is an optimisation, and
a `Breaker` keeps one that is down from delaying every read.

Not here: keys and what they hold (`clipfs.tiers.content_cache`).
Source: RFC 9110 and 9112; measured against obstore and httpx (docs/architecture.md).
"""

import base64
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import h11
import structlog
import trio

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 2
ANSWER_TIMEOUT_S = 5
"""Until the first byte of an answer: longer, and the registry is the nearer tier."""

TRANSFER_TIMEOUT_S = 30
MAX_CONNECTIONS = 16
IDLE_S = 45
"""Kept less long than the server keeps them, so that a request seldom meets a closed one."""

MAX_BODY_BYTES = 1 << 30
_HEAD_BYTES = 4096
_CLIENT = "/v1/objects/"


class ContentCacheDown(Exception):
    """The content cache gave no usable answer. Never leaves `clipfs.tiers`."""


@dataclass(slots=True)
class Breaker:
    """Opens after a failure, for longer each time; one request tries again when it is over."""

    first_s: float = 1
    most_s: float = 30
    _until: float = field(default=0, init=False)
    _wait_s: float = field(default=0, init=False)

    def is_open(self) -> bool:
        if trio.current_time() < self._until:
            return True
        if self._wait_s:  # this caller tries; the others wait for what it finds
            self._until = trio.current_time() + self._wait_s
        return False

    def succeeded(self) -> None:
        if self._wait_s:
            log.info("content cache is back")
        self._until = self._wait_s = 0

    def failed(self, reason: str) -> None:
        if not self._wait_s:
            log.warning("content cache unavailable", error=reason)
        self._wait_s = min(self.most_s, self._wait_s * 2 or self.first_s)
        self._until = trio.current_time() + self._wait_s


@dataclass(slots=True)
class _Kept:
    stream: trio.SocketStream
    since: float


class ContentCache:
    """One content cache by its URL; open it with `ContentCache.open`."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._common = f"Host: {parts.netloc}\r\n{authorization}"
        self._idle: list[_Kept] = []
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._breaker = Breaker()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, token: str | None) -> AsyncIterator[Self]:
        """url  http://host:port"""
        cache = cls(url, token)
        try:
            yield cache
        finally:
            for kept in cache._idle:
                kept.stream.socket.close()

    async def get(self, key: str, *, part: range | None = None) -> bytearray | None:
        """The object, or just the bytes of part; None if there is no such object.

        Raises  ContentCacheDown, also if fewer bytes came than part asked for
        """
        lines = f"Range: bytes={part.start}-{part.stop - 1}\r\n" if part is not None else ""
        status, body = await self._ask("GET", key, lines)
        if status == 404:
            return None
        if status != (200 if part is None else 206) or (
            part is not None and len(body) != len(part)
        ):
            raise self._broken(f"GET answered {status} with {len(body)} bytes")
        return body

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """Store an object; the same bytes again change nothing. Raises ContentCacheDown."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        lines = f"Content-Digest: sha-256=:{digest}:\r\nContent-Length: {len(data)}\r\n"
        status, body = await self._ask("PUT", key, lines, data)
        if status not in (200, 201):
            words = bytes(body[:100]).decode("utf-8", "replace").strip()
            raise ContentCacheDown(f"PUT {key} answered {status} {words}")

    async def _ask(
        self, method: str, key: str, lines: str, data: bytes | memoryview = b""
    ) -> tuple[int, bytearray]:
        if self._breaker.is_open():
            raise ContentCacheDown("skipped: it was unavailable a moment ago")
        head = f"{method} {_CLIENT}{key} HTTP/1.1\r\n{self._common}{lines}\r\n".encode()
        try:
            async with self._limit:
                answer = await self._exchange(method, head, data)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError) as error:
            raise self._broken(str(error) or type(error).__name__) from error
        status = answer[0]
        if status in (401, 403):
            raise self._broken(f"{method} answered {status}: the token is wrong")
        if status >= 500:
            raise self._broken(f"{method} answered {status}")
        self._breaker.succeeded()
        return answer

    def _broken(self, reason: str) -> ContentCacheDown:
        self._breaker.failed(reason)
        return ContentCacheDown(reason)

    async def _exchange(
        self, method: str, head: bytes, data: bytes | memoryview
    ) -> tuple[int, bytearray]:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange_on(kept, method, head, data)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                pass  # closed by the server meanwhile: all requests are idempotent
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(self._host, self._port)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await self._exchange_on(stream, method, head, data)

    def _kept(self) -> trio.SocketStream | None:
        while self._idle:
            kept = self._idle.pop()
            if trio.current_time() - kept.since < IDLE_S:
                return kept.stream
            kept.stream.socket.close()
        return None

    async def _exchange_on(
        self, stream: trio.SocketStream, method: str, head: bytes, data: bytes | memoryview
    ) -> tuple[int, bytearray]:
        reusable = False
        try:
            with trio.fail_after(TRANSFER_TIMEOUT_S):
                if len(data) < 64 << 10:
                    await stream.send_all(head + bytes(data))
                else:
                    await stream.send_all(head)
                    await stream.send_all(data)
                response, rest = await _read_head(stream, method)
                body, reusable = await _read_body(stream, response, rest)
            return response.status_code, body
        finally:
            if reusable:
                self._idle.append(_Kept(stream, trio.current_time()))
            else:
                stream.socket.close()


async def _read_head(stream: trio.SocketStream, method: str) -> tuple[h11.Response, bytes]:
    """The response's head, and what came behind it."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    http.send(h11.EndOfMessage())
    with trio.fail_after(ANSWER_TIMEOUT_S):
        while True:
            received = await stream.receive_some(_HEAD_BYTES)
            end = received.find(b"\r\n\r\n")
            rest = received[end + 4 :] if end >= 0 else b""
            http.receive_data(received[: end + 4] if end >= 0 else received)
            event = http.next_event()
            if isinstance(event, h11.Response):
                return event, bytes(rest)
            if event is not h11.NEED_DATA:
                raise h11.RemoteProtocolError("the connection ended before an answer")


async def _read_body(
    stream: trio.SocketStream, response: h11.Response, rest: bytes
) -> tuple[bytearray, bool]:
    """The body, and whether the connection can be used again."""
    headers = dict(response.headers)
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES or len(rest) > int(length):
        raise h11.RemoteProtocolError("an answer without a sound Content-Length")
    body = bytearray(int(length))
    body[: len(rest)] = rest
    view, at = memoryview(body), len(rest)
    while at < len(body):
        count = await stream.socket.recv_into(view[at:])
        if not count:
            raise h11.RemoteProtocolError("the connection ended inside a body")
        at += count
    return body, headers.get(b"connection", b"").lower() != b"close"
