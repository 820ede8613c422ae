"""Speaks HTTP to the content cache: the hot path, so sockets of our own and no client library.

A request is one send, a body goes straight into one buffer. Connections are kept and reused,
the last one first. Whatever goes wrong is `ContentCacheDown`: tier 2 is an optimisation, and
a `Breaker` keeps one that is down from delaying every read.

Not here: keys and what they hold (`clipfs.tiers.content_cache`); reading an answer
(`clipfs.tiers.content.answer`).
Source: RFC 9110 and 9112.
"""

import base64
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import h11
import trio

from clipfs.tiers.content.answer import Answer, read_body, read_head
from clipfs.tiers.content.breaker import Breaker
from clipfs.tiers.content.store import ContentCacheDown, ContentRefused, Found, MayNotStore

CONNECT_TIMEOUT_S = 2
ANSWER_TIMEOUT_S = 5
"""Until an answer's head is there: longer, and the registry is the nearer tier."""

TRANSFER_TIMEOUT_S = 30
"""One whole exchange, the server's fsync of a stored page included."""

MAX_CONNECTIONS = 16
IDLE_S = 45
"""Kept less long than the server keeps them, so that a request seldom meets a closed one."""

MAX_BODY_BYTES = 1 << 30
_OBJECTS = "/v1/objects/"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request; `most_bytes` is how much body a success may bring."""

    method: str
    head: bytes
    data: bytes | memoryview = b""
    most_bytes: int = 0


@dataclass(slots=True)
class _Kept:
    stream: trio.SocketStream
    since: float


class ContentCache:
    """One content cache by its URL; open it with `ContentCache.open`."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._token_advice = (
            "the token is wrong" if token else "it wants a token, see --content-cache-token-file"
        )
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._common = f"Host: {parts.netloc}\r\n{authorization}"
        self._idle: list[_Kept] = []
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._breaker = Breaker()
        self._may_store = True

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

    @property
    def may_store(self) -> bool:
        """False once the server has said that our token may only read."""
        return self._may_store

    async def get(self, key: str, *, part: range | None = None) -> Found | None:
        """The object, or just the bytes of part; None if there is no such object.

        Raises  ContentCacheDown, also if fewer or more bytes came than part asked for
        """
        lines = f"Range: bytes={part.start}-{part.stop - 1}\r\n" if part is not None else ""
        most = len(part) if part is not None else MAX_BODY_BYTES
        head = self._head("GET", key, lines)
        answer = await self._ask(_Request(method="GET", head=head, most_bytes=most))
        whole = part is None or len(answer.body) == len(part)
        if answer.status == (200 if part is None else 206) and whole:
            self._breaker.succeeded()
            return Found(answer.body, answer.etag)
        if answer.status == 404:
            self._breaker.succeeded()
            return None
        raise self._broken(f"GET answered {answer.status} with {len(answer.body)} bytes")

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """Store an object; the same bytes again change nothing.

        Raises  MayNotStore; ContentRefused; ContentCacheDown
        """
        if not self._may_store:
            raise MayNotStore("the token may only read")
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        head = self._head(
            "PUT",
            key,
            f"Content-Digest: sha-256=:{digest}:\r\nContent-Length: {len(data)}\r\n"
            "Expect: 100-continue\r\n",  # a refusal arrives before 8 MiB are sent for nothing
        )
        answer = await self._ask(_Request(method="PUT", head=head, data=data))
        self._breaker.succeeded()  # whatever it thinks of the object, it can be read from
        if answer.status == 403:
            self._may_store = False
            raise MayNotStore("the token may only read: from now on nothing is stored")
        if answer.status not in (200, 201):
            words = bytes(answer.body[:100]).decode("utf-8", "replace").strip()
            refused = ContentRefused if answer.status < 500 else ContentCacheDown
            raise refused(f"PUT {key} answered {answer.status} {words}")

    def _head(self, method: str, key: str, lines: str) -> bytes:
        return f"{method} {_OBJECTS}{key} HTTP/1.1\r\n{self._common}{lines}\r\n".encode()

    async def _ask(self, request: _Request) -> Answer:
        """An answer that is neither a fault of the server (but a full disk) nor a 401."""
        try:
            async with self._limit:
                if not self._breaker.allows():
                    raise ContentCacheDown("skipped: it was unavailable a moment ago")
                answer = await self._exchange(request)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError) as error:
            raise self._broken(str(error) or type(error).__name__) from error
        if answer.status == 401:
            raise self._broken(f"{request.method} answered 401: {self._token_advice}")
        if answer.status >= 500 and answer.status != 507:
            raise self._broken(f"{request.method} answered {answer.status}")
        return answer

    def _broken(self, reason: str) -> ContentCacheDown:
        self._breaker.failed(reason)
        return ContentCacheDown(reason)

    async def _exchange(self, request: _Request) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange_on(kept, request)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                pass  # closed by the server meanwhile: all requests are idempotent
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_tcp_stream(self._host, self._port)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await self._exchange_on(stream, request)

    def _kept(self) -> trio.SocketStream | None:
        while self._idle:
            kept = self._idle.pop()
            if trio.current_time() - kept.since < IDLE_S:
                return kept.stream
            kept.stream.socket.close()
        return None

    async def _exchange_on(self, stream: trio.SocketStream, request: _Request) -> Answer:
        reusable, received = False, bytearray()
        try:
            with trio.fail_after(TRANSFER_TIMEOUT_S):
                await stream.send_all(request.head)
                with trio.fail_after(ANSWER_TIMEOUT_S):
                    response = await read_head(stream, request.method, received)
                refused = bool(request.data)
                if refused and isinstance(response, h11.InformationalResponse):
                    await stream.send_all(request.data)
                    response = await read_head(stream, request.method, received)
                    refused = False
                answer = await read_body(stream, response, received, most_bytes=request.most_bytes)
            reusable = answer.keeps_open and not refused
            return answer
        finally:
            if reusable:
                self._idle.append(_Kept(stream, trio.current_time()))
            else:
                stream.socket.close()
