"""One replica of the content cache, by HTTP: objects and claims by their keys.

Connections are kept and reused, the last one first. Whatever goes wrong is `ContentCacheDown`:
tier 2 is an optimisation, and a `Breaker` keeps a replica that is down from delaying every read.

Not here: which replica has what (`clipfs.tiers.content.replicas`); the bytes of requests and
answers (`clipfs.tiers.content.connection`); keys and what they hold
(`clipfs.tiers.content_cache`).
Source: RFC 9110 ("Conditional Requests"), RFC 9530 (Content-Digest).
"""

import base64
import hashlib
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn, Self

import h11
import msgspec
import trio

from clipfs.tiers.content.answer import Answer
from clipfs.tiers.content.breaker import Breaker
from clipfs.tiers.content.connection import (
    SMALL_BODY_BYTES,
    TRANSFER_TIMEOUT_S,
    Connection,
    Endpoint,
    Request,
)
from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    ContentRefused,
    Found,
    MayNotStore,
    Progress,
)

CONNECT_TIMEOUT_S = 2
ANSWER_TIMEOUT_S = 5
"""Until an answer's head is there: longer, and the registry is the nearer tier."""

MAX_CONNECTIONS = 16
IDLE_S = 45
"""Kept less long than the server keeps them, so that a request seldom meets a closed one."""

MAX_BODY_BYTES = 1 << 30
MAX_ID_BYTES = 256

_OBJECTS, _CLAIMS = "/v1/objects/", "/v1/claims/"


class _Health(msgspec.Struct):
    id: str = ""


class _Wish(msgspec.Struct):
    """What a request for a claim says."""

    holder: str
    progress: Progress


class _Standing(msgspec.Struct):
    """What its answer says; who is granted a claim may be told how long it stands, and no more."""

    holder: str = ""
    progress: Progress = Progress()
    seconds_left: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """How long a caller waits.

    answer_s  for an answer, once it is asked for
    by        for all of it, on trio's clock, but for bytes that come
    soon      ask though the replica was down a moment ago
    """

    answer_s: float = ANSWER_TIMEOUT_S
    by: float = math.inf
    soon: bool = False


AT_LEISURE = Hurry()


@dataclass(slots=True)
class _Kept:
    connection: Connection
    since: float


class Replica:
    """Asks the one server at `endpoint`; close it, or open it with `Replica.open`.

    tls  who is trusted; needed where the endpoint speaks TLS
    """

    def __init__(
        self, endpoint: Endpoint, *, token: str | None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker(str(endpoint))
        self._tls = tls
        self._token_advice = (
            "the token is wrong" if token else "it wants a token, see --content-cache-token-file"
        )
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._common = f"Host: {endpoint.authority}\r\n{authorization}"
        self._idle: list[_Kept] = []
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._may_store = True
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls, endpoint: Endpoint, *, token: str | None, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Self]:
        replica = cls(endpoint, token=token, tls=tls)
        try:
            yield replica
        finally:
            replica.close()

    def close(self) -> None:
        """Let go of the connections that nobody uses, and of the others when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.close()

    @property
    def may_store(self) -> bool:
        """False once the server has said that our token may only read."""
        return self._may_store

    async def get(
        self, key: str, *, part: range | None = None, hurry: Hurry = AT_LEISURE
    ) -> Found | None:
        """As ContentStore's."""
        lines = f"Range: bytes={part.start}-{part.stop - 1}\r\n" if part is not None else ""
        most = len(part) if part is not None else MAX_BODY_BYTES
        head = self._head("GET", _OBJECTS + key, lines)
        answer = await self._ask(Request(method="GET", head=head, most_bytes=most), hurry)
        whole = part is None or len(answer.body) == len(part)
        if answer.status == (200 if part is None else 206) and whole:
            self.breaker.succeeded()
            return Found(answer.body, answer.etag)
        if answer.status == 404:
            self.breaker.succeeded()
            return None
        raise self._broken(f"GET answered {answer.status} with {len(answer.body)} bytes")

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        digest: str | None = None,
    ) -> None:
        """As ContentStore's. digest: `content_digest(data)`, from a caller that has it."""
        self._check_may_store()
        lines = f"Content-Digest: {digest or content_digest(data)}\r\n"
        if replaces is not None:
            lines += f"If-Match: {replaces}\r\n"
        small = len(data) <= SMALL_BODY_BYTES  # is answered when it is stored, not before
        hurry = Hurry(answer_s=TRANSFER_TIMEOUT_S) if small else AT_LEISURE
        answer = await self._send("PUT", _OBJECTS + key, data, lines, hurry)
        if answer.status not in (200, 201):
            self._refused(f"PUT {key}", answer)

    async def delete(self, key: str, *, etag: str) -> None:
        """As ContentStore's."""
        self._check_may_store()
        answer = await self._send("DELETE", _OBJECTS + key, b"", f"If-Match: {etag}\r\n")
        if answer.status not in (200, 204, 404, 412):  # gone, or another one by now
            self._refused(f"DELETE {key}", answer)

    async def claim(
        self, key: str, holder: str, progress: Progress, *, hurry: Hurry = AT_LEISURE
    ) -> Claim:
        """As ContentStore's."""
        self._check_may_store()
        wish = msgspec.json.encode(_Wish(holder, progress))
        answer = await self._send("PUT", _CLAIMS + key, wish, hurry=hurry)
        if answer.status not in (200, 201, 409):
            self._refused(f"claim of {key}", answer)
        try:
            said = msgspec.json.decode(answer.body or b"{}", type=_Standing)
        except msgspec.DecodeError as error:
            raise self._broken(f"a claim's answer is not understood: {error}") from error
        if answer.status != 409:
            return Claim(holder, progress, said.seconds_left)
        if not said.holder:
            raise self._broken("a claim is held, and the answer does not say by whom")
        return Claim(said.holder, said.progress, said.seconds_left)

    async def release(self, key: str, holder: str) -> None:
        """As ContentStore's."""
        wish = msgspec.json.encode(_Wish(holder, Progress()))
        answer = await self._send("DELETE", _CLAIMS + key, wish)
        if answer.status not in (200, 204, 404, 409):  # given up, or not holder's any more
            self._refused(f"release of {key}", answer)

    async def ask_id(self) -> str:
        """Its stable id; "" if it has none.

        Raises  ContentCacheDown, which the breaker does not hear of: nobody has lost by it
        """
        head = self._head("GET", "/healthz", "")
        try:
            deadline = trio.current_time() + ANSWER_TIMEOUT_S
            answer = await self._exchange(Request(method="GET", head=head), deadline)
        except _FAILURES as error:
            raise ContentCacheDown(_words_of(error)) from error
        if answer.status != 200:
            raise ContentCacheDown(f"/healthz answered {answer.status}")
        try:
            return msgspec.json.decode(answer.body, type=_Health).id[:MAX_ID_BYTES]
        except msgspec.DecodeError:
            return ""

    def _head(self, method: str, target: str, lines: str) -> str:
        return f"{method} {target} HTTP/1.1\r\n{self._common}{lines}"

    async def _send(
        self,
        method: str,
        target: str,
        data: bytes | memoryview,
        lines: str = "",
        hurry: Hurry = AT_LEISURE,
    ) -> Answer:
        """An answer that tells that the server can be read from, whatever it thinks of data."""
        head = self._head(method, target, f"{lines}Content-Length: {len(data)}\r\n")
        answer = await self._ask(Request(method=method, head=head, data=data), hurry)
        self.breaker.succeeded()
        return answer

    def _check_may_store(self) -> None:
        if not self._may_store:
            raise MayNotStore("the token may only read")

    def _refused(self, what: str, answer: Answer) -> NoReturn:
        if answer.status == 403:
            self._may_store = False
            raise MayNotStore("the token may only read: from now on nothing is stored")
        words = bytes(answer.body[:100]).decode("utf-8", "replace").strip()
        refused = ContentRefused if answer.status < 500 else ContentCacheDown
        raise refused(f"{what} answered {answer.status} {words}")

    async def _ask(self, request: Request, hurry: Hurry) -> Answer:
        """An answer that is neither a fault of the server (but a full disk) nor a 401."""
        async with self._turn(hurry):
            if not self.breaker.allows(soon=hurry.soon):
                raise ContentCacheDown("skipped: it was unavailable a moment ago")
            begun = trio.current_time()
            try:
                answer = await self._exchange(request, min(begun + hurry.answer_s, hurry.by))
            except _FAILURES as error:
                reason = _words_of(error)
                self.breaker.failed(reason, begun=begun)
                raise ContentCacheDown(reason) from error
        if answer.status == 401:
            raise self._broken(f"{request.method} answered 401: {self._token_advice}")
        if answer.status >= 500 and answer.status != 507:
            raise self._broken(f"{request.method} answered {answer.status}")
        return answer

    def _broken(self, reason: str) -> ContentCacheDown:
        self.breaker.failed(reason)
        return ContentCacheDown(reason)

    @asynccontextmanager
    async def _turn(self, hurry: Hurry) -> AsyncIterator[None]:
        try:
            with trio.fail_at(hurry.by):
                await self._limit.acquire()
        except trio.TooSlowError:
            raise ContentCacheDown("too many requests are on their way to it") from None
        try:
            yield
        finally:
            self._limit.release()

    async def _exchange(self, request: Request, deadline: float) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange_on(kept, request, deadline)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                pass  # closed by the server meanwhile: all requests are idempotent
        with trio.fail_at(min(trio.current_time() + CONNECT_TIMEOUT_S, deadline)):
            connection = await Connection.open(self.endpoint, self._tls)
        return await self._exchange_on(connection, request, deadline)

    async def _exchange_on(
        self, connection: Connection, request: Request, deadline: float
    ) -> Answer:
        reusable = False
        try:
            answer, reusable = await connection.ask(request, deadline=deadline)
            return answer
        finally:
            if reusable and not self._closed:
                self._idle.append(_Kept(connection, trio.current_time()))
            else:
                connection.close()

    def _kept(self) -> Connection | None:
        while self._idle:
            kept = self._idle.pop()
            if trio.current_time() - kept.since < IDLE_S:
                return kept.connection
            kept.connection.close()
        return None


def content_digest(data: bytes | memoryview) -> str:
    """The value of Content-Digest."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


_FAILURES = (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError)


def _words_of(error: BaseException) -> str:
    """What went wrong, and the way out where it is the certificate."""
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}; see --ca-file"
    if isinstance(cause, trio.TooSlowError):
        return "no answer in time"
    return str(cause) or type(cause).__name__
