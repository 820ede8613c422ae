"""Requests to one replica: connections kept, time-outs, and who may ask while it is down.

Connections are kept and reused, the last one first. Whatever goes wrong is `ContentCacheDown`:
tier 2 is an optimisation, and a `Breaker` keeps a replica that is down from delaying every read.

Not here: what is asked (`clipfs.tiers.content.replica`); the bytes of requests and answers
(`clipfs.tiers.content.connection`).
"""

import math
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import trio

from clipfs.tiers.content.answer import ANY_LENGTH, Answer, NoAnswer, Pace
from clipfs.tiers.content.breaker import Breaker
from clipfs.tiers.content.connection import Connection, Endpoint, Request
from clipfs.tiers.content.store import ContentCacheDown

CONNECT_TIMEOUT_S = 2
ANSWER_TIMEOUT_S = 5
"""Until an answer's head is there: longer, and the registry is the nearer tier."""

MAX_CONNECTIONS = 16
IDLE_S = 45
"""Kept less long than the server keeps them, so that a request seldom meets a closed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurry:
    """How long a caller waits.

    answer_s  for an answer, once it is asked for
    by        for all of it, on trio's clock, but for bytes that come at pace
    soon      ask though the replica was down a moment ago
    pace      how fast bytes are to come, and until when
    """

    answer_s: float = ANSWER_TIMEOUT_S
    by: float = math.inf
    soon: bool = False
    pace: Pace = ANY_LENGTH


AT_LEISURE = Hurry()


@dataclass(slots=True)
class _Kept:
    connection: Connection
    since: float


class Exchange:
    """Asks the server at `endpoint`, from many tasks at once; `close` it.

    tls  who is trusted; None: the endpoint does not speak TLS
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tls: ssl.SSLContext | None,
        *,
        token_advice: str,
        on_failure: Callable[[], None],
    ) -> None:
        """token_advice  what to do about a 401
        on_failure    called for each request without a usable answer
        """
        self.breaker = Breaker(str(endpoint), on_failure=on_failure)
        self._endpoint = endpoint
        self._tls = tls
        self._token_advice = token_advice
        self._idle: list[_Kept] = []
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self._closed = False

    def close(self) -> None:
        """Let go of the connections that nobody uses, and of the others when they are done."""
        self._closed = True
        while self._idle:
            self._idle.pop().connection.close()

    async def ask(self, request: Request, hurry: Hurry) -> Answer:
        """An answer that is neither a fault of the server (but a full disk) nor a 401.

        The caller tells the breaker what it thinks of it.
        """
        async with self._turn(hurry):
            if not self.breaker.allows(soon=hurry.soon):
                raise ContentCacheDown("skipped: it was unavailable a moment ago")
            begun = trio.current_time()
            try:
                deadline = min(begun + hurry.answer_s, hurry.by)
                answer = await self._exchange(request, deadline, hurry.pace)
            except _FAILURES as error:
                reason = self._words_of(error)
                self.breaker.failed(reason, begun=begun)
                raise ContentCacheDown(reason) from error
        if answer.status == 401:
            raise self.broken(f"{request.method} answered 401: {self._token_advice}")
        if answer.status >= 500 and answer.status != 507:
            raise self.broken(f"{request.method} answered {answer.status}")
        return answer

    async def ask_unseen(self, request: Request) -> Answer:
        """Any answer; the breaker neither hears of it nor has a say."""
        try:
            return await self._exchange(request, trio.current_time() + ANSWER_TIMEOUT_S)
        except _FAILURES as error:
            raise ContentCacheDown(self._words_of(error)) from error

    def broken(self, reason: str) -> ContentCacheDown:
        """The error for an answer that is of no use; the replica is down then."""
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

    async def _exchange(self, request: Request, deadline: float, pace: Pace = ANY_LENGTH) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return await self._exchange_on(kept, request, deadline, pace)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                pass  # closed by the server meanwhile: all requests are idempotent
        with trio.fail_at(min(trio.current_time() + CONNECT_TIMEOUT_S, deadline)):
            connection = await Connection.open(self._endpoint, self._tls)
        return await self._exchange_on(connection, request, deadline, pace)

    async def _exchange_on(
        self, connection: Connection, request: Request, deadline: float, pace: Pace
    ) -> Answer:
        reusable = False
        try:
            answer, reusable = await connection.ask(request, deadline=deadline, pace=pace)
            return answer
        finally:
            if reusable and not self._closed:
                self._idle.append(_Kept(connection, trio.current_time()))
            else:
                connection.close()

    def _words_of(self, error: BaseException) -> str:
        """What went wrong, and the way out where the URL's scheme may be the wrong one."""
        words = _words_of(error)
        if self._tls is None and isinstance(error, NoAnswer):
            return f"{words}; if it speaks TLS, write https://"
        return words

    def _kept(self) -> Connection | None:
        while self._idle:
            kept = self._idle.pop()
            if trio.current_time() - kept.since < IDLE_S:
                return kept.connection
            kept.connection.close()
        return None


_NOT_TLS = re.compile("WRONG_VERSION|RECORD_LAYER|PACKET_LENGTH")
_FAILURES = (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError)


def _words_of(error: BaseException) -> str:
    """What went wrong, and the way out where it is the certificate."""
    cause = error.__cause__
    if isinstance(cause, ExceptionGroup):  # trio's, of attempts to connect
        cause = cause.exceptions[0]
    if not isinstance(cause, OSError):
        cause = error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}; see --ca-file"
    if isinstance(cause, ssl.SSLError) and _NOT_TLS.search(str(cause)):
        return "it does not speak TLS; if it should not, write http://"
    if isinstance(cause, trio.TooSlowError):
        return "no answer in time"
    words = cause.strerror if isinstance(cause, OSError) else str(cause)
    return words or str(cause) or type(cause).__name__
