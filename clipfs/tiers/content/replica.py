"""One replica of the content cache, by HTTP: objects and claims by their keys.

What its answers mean is decided here. A replica that answers is not down, whatever it says.

Not here: which replica has what (`clipfs.tiers.content.replicas`); connections and time-outs
(`clipfs.tiers.content.exchange`); keys and what they hold (`clipfs.tiers.content_cache`).
Source: RFC 9110 ("Conditional Requests"), RFC 9530 (Content-Digest).
"""

import base64
import hashlib
import ssl
from collections.abc import Callable
from typing import NoReturn, TypeVar

import msgspec
import trio

from clipfs.tiers.content.answer import Answer
from clipfs.tiers.content.breaker import Breaker
from clipfs.tiers.content.connection import (
    SMALL_BODY_BYTES,
    TRANSFER_TIMEOUT_S,
    Endpoint,
    Request,
)
from clipfs.tiers.content.exchange import AT_LEISURE, Exchange, Hurry
from clipfs.tiers.content.store import (
    MAX_OBJECT_BYTES,
    Claim,
    ContentCacheDown,
    ContentRefused,
    Found,
    MayNotStore,
    Progress,
)

PROBE_S = 0.75
"""For a replica that is down: a third of it until it may be asked, the rest for its answer."""

PROBE_STEP_S = 0.05
"""Between two looks at what another one, who asks now, has found."""

MAX_ID_BYTES = 256

T = TypeVar("T")

_OBJECTS, _CLAIMS = "/v1/objects/", "/v1/claims/"


class _Health(msgspec.Struct):
    id: str = ""


class _Wish(msgspec.Struct):
    """What a request for a claim says."""

    holder: str
    progress: Progress


class _Standing(msgspec.Struct):
    """What its answer says."""

    holder: str
    progress: Progress = Progress()


class Replica:
    """Asks the one server at `endpoint`; `close` it.

    tls         who is trusted; needed where the endpoint speaks TLS
    on_failure  called for each request without a usable answer
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        token: str | None,
        tls: ssl.SSLContext | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.endpoint = endpoint
        advice = (
            "the token is wrong" if token else "it wants a token, see --content-cache-token-file"
        )
        self._exchange = Exchange(endpoint, tls, token_advice=advice, on_failure=on_failure)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._common = f"Host: {endpoint.authority}\r\n{authorization}"
        self._may_store = True

    def close(self) -> None:
        self._exchange.close()

    @property
    def breaker(self) -> Breaker:
        return self._exchange.breaker

    @property
    def may_store(self) -> bool:
        """False once the server has said that our token may only read."""
        return self._may_store

    async def get(
        self, key: str, *, part: range | None = None, hurry: Hurry = AT_LEISURE
    ) -> Found | None:
        """As ContentStore's."""
        lines = f"Range: bytes={part.start}-{part.stop - 1}\r\n" if part is not None else ""
        most = len(part) if part is not None else MAX_OBJECT_BYTES
        head = self._head("GET", _OBJECTS + key, lines)
        answer = await self._exchange.ask(Request(method="GET", head=head, most_bytes=most), hurry)
        count = len(answer.body)
        ends_early = count < most and answer.etag != ""  # as an object may, before part does
        fits = part is None or count == most or ends_early
        if answer.status == (200 if part is None else 206) and fits:
            self.breaker.succeeded()
            return Found(answer.body, answer.etag)
        if answer.status == 416 and part is not None and answer.etag:  # it ends before the range
            self.breaker.succeeded()
            return Found(bytearray(), answer.etag)
        if answer.status == 404:
            self.breaker.succeeded()
            return None
        raise self._exchange.broken(f"GET answered {answer.status} with {count} bytes")

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
        said = _decoded(answer.body, _Standing)
        if said is None:
            raise self._exchange.broken("a claim's answer is not understood")
        if answer.status != 409:
            return Claim(holder, progress)
        return Claim(said.holder, said.progress)

    async def release(self, key: str, holder: str) -> None:
        """As ContentStore's."""
        wish = msgspec.json.encode(_Wish(holder, Progress()))
        answer = await self._send("DELETE", _CLAIMS + key, wish)
        if answer.status not in (200, 204, 404, 409):  # given up, or not holder's any more
            self._refused(f"release of {key}", answer)

    async def probe(self, key: str) -> None:
        """If it is down, ask for a byte of key, so that the breaker knows it if it is back.

        Of those who call at the same time one asks. Never fails, and takes PROBE_S at most.
        """
        begun = trio.current_time()
        hurry = Hurry(by=begun + PROBE_S, soon=True)
        while self.breaker.down_since is not None and self.breaker.failed_at < begun:
            try:
                await self.get(key, part=range(1), hurry=hurry)
                return
            except ContentCacheDown:
                if trio.current_time() + PROBE_STEP_S > hurry.by:
                    return
            await trio.sleep(PROBE_STEP_S)

    async def ask_id(self) -> str:
        """Its stable id; "" if it has none.

        Raises  ContentCacheDown, which the breaker does not hear of: nobody has lost by it
        """
        head = self._head("GET", "/healthz", "")
        answer = await self._exchange.ask_unseen(Request(method="GET", head=head))
        if answer.status != 200:
            raise ContentCacheDown(f"/healthz answered {answer.status}")
        health = _decoded(answer.body, _Health)
        return health.id[:MAX_ID_BYTES] if health is not None else ""

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
        answer = await self._exchange.ask(Request(method=method, head=head, data=data), hurry)
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


def _decoded(body: bytearray, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None


def content_digest(data: bytes | memoryview) -> str:
    """The value of Content-Digest."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"
