"""One question to a registry over HTTP, one bounded answer: the edge of `clipfs.image`.

    answer = await wire.ask("GET", of, url, headers)       follows redirects
    answer = await wire.send(of, request)                  does not

Whatever the peer does, the caller gets an `Answer` or RegistryUnavailable: size, time and
redirects are bounded, foreign errors renamed. A request that fails by no fault of its own is
sent again, as the policy says.

Not here: what is asked (`clipfs.image.registry`); failures in words (`clipfs.image.failures`).
Source: RFC 9110, "Redirection 3xx"; Fetch, "HTTP-redirect fetch" (no Authorization elsewhere).
"""

import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Self

import httpx
import trio

from clipfs import errors
from clipfs.image import auth
from clipfs.image.failures import is_lasting, no_answer, odd_redirect
from clipfs.image.manifest import MAX_DOCUMENT_BYTES
from clipfs.image.proxy import proxy_for
from clipfs.image.retry import RETRIED_STATUS, RetryPolicy, retry_after_s
from clipfs.image.tls import TRUSTS_NOBODY, client_context

Method = Literal["GET", "HEAD"]
USER_AGENT = "clip-csi/0.1"
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 60
"""For an answer as a whole: a peer that sends a byte now and then is given up too."""

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_FAILURES = (
    httpx.HTTPError,
    httpx.InvalidURL,
    UnicodeError,  # a host name that IDNA refuses, only found when it is looked up
    trio.TooSlowError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for `request`, the last one where redirects were followed.

    body  raw; of one over the caller's limit just enough to see that
    """

    request: httpx.Request
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def authorization(self) -> dict[str, str]:
        """The credential that this answer needed, as headers; empty if none."""
        value = self.request.headers.get("Authorization")
        return {"Authorization": value} if value else {}

    @property
    def shown(self) -> list[str]:
        """The secrets that this answer may repeat."""
        return auth.secrets_in(self.request.headers.get("Authorization", ""))


class Wire:
    """Connections to registries; open it with `Wire.open`."""

    def __init__(
        self,
        stack: AsyncExitStack,
        *,
        plain_http: frozenset[str],
        ca_pem: str,
        retry: RetryPolicy,
    ) -> None:
        self.ca_pem = ca_pem
        self.retry = retry
        self._stack = stack
        self._plain_http = plain_http
        self._clients: dict[tuple[str, str], httpx.AsyncClient] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, plain_http: frozenset[str], ca_pem: str = "", retry: RetryPolicy
    ) -> AsyncIterator[Self]:
        """plain_http  hosts, or host:port, that are spoken to without TLS
        ca_pem      CAs that are trusted beside the node's own
        """
        hosts = frozenset(one.lower() for one in plain_http)
        async with AsyncExitStack() as stack:
            yield cls(stack, plain_http=hosts, ca_pem=ca_pem, retry=retry)

    def trusting(self, ca_pem: str) -> "Wire":
        """This one, or one that trusts these CAs too; it is closed with this one."""
        if not ca_pem:
            return self
        return Wire(
            self._stack,
            plain_http=self._plain_http,
            ca_pem="\n".join(one for one in (self.ca_pem, ca_pem) if one),
            retry=self.retry,
        )

    def is_plain(self, url: httpx.URL) -> bool:
        """Whether the administrator named url's host as one without TLS."""
        names = (url.host, url.netloc.decode(), f"{url.host}:{url.port or 80}")
        return not self._plain_http.isdisjoint(names)

    def url(self, host: str, path: str) -> httpx.URL:
        """path on host, by the scheme that host is spoken to."""
        secure = httpx.URL(f"https://{host}{path}")
        return secure.copy_with(scheme="http") if self.is_plain(secure) else secure

    def _client(self, url: httpx.URL) -> httpx.AsyncClient:
        """The connections of url's scheme and proxy.

        CAs take 20 to 40 ms to load, plain HTTP needs none.
        """
        key = url.scheme, proxy_for(str(url))
        if key not in self._clients:
            client = httpx.AsyncClient(
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                # digests are of the bytes as stored, and a coded answer may unfold without bound
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                verify=TRUSTS_NOBODY if url.scheme == "http" else client_context(self.ca_pem),
                proxy=key[1] or None,
                trust_env=False,  # it would choose the proxy by itself
            )
            self._stack.push_async_callback(client.aclose)
            self._clients[key] = client
        return self._clients[key]

    async def ask(
        self,
        method: Method,
        of: str,
        url: httpx.URL,
        headers: dict[str, str],
        *,
        limit_bytes: int = MAX_DOCUMENT_BYTES,
        patient: bool = True,
    ) -> Answer:
        """With redirects; Authorization stays with the origin that it was meant for.

        of       what is asked for, for errors
        patient  ask again what fails by no fault of its own
        """
        for _ in range(MAX_REDIRECTS + 1):
            request = self._client(url).build_request(method, url, headers=headers)
            answer = await self.send(of, request, limit_bytes=limit_bytes, patient=patient)
            if answer.status not in _REDIRECTS:
                return answer
            target = _target(of, url, answer)
            if not same_origin(target, url):
                headers = {k: v for k, v in headers.items() if k != "Authorization"}
            url = target
        raise errors.RegistryUnavailable(f"{of}: over {MAX_REDIRECTS} redirects in a row")

    async def post(
        self, of: str, url: httpx.URL, form: dict[str, str], *, patient: bool = True
    ) -> Answer:
        request = self._client(url).build_request("POST", url, data=form)
        return await self.send(of, request, patient=patient)

    async def send(
        self,
        of: str,
        request: httpx.Request,
        *,
        limit_bytes: int = MAX_DOCUMENT_BYTES,
        patient: bool = True,
    ) -> Answer:
        """The answer; reading its body ends soon after limit_bytes.

        A peer that is busy or breaks off is asked again; its last word is the answer.
        """
        begin, failed = trio.current_time(), 0
        while True:
            outcome = await self._attempt(request, limit_bytes)
            if not patient or not _is_passing(outcome):
                break
            failed += 1
            delay_s = self.retry.delay_s(
                failed=failed,
                elapsed_s=trio.current_time() - begin,
                retry_after_s=_asked_wait_s(outcome),
                draw=random.random(),
            )
            if delay_s is None:
                break
            await trio.sleep(delay_s)
        if isinstance(outcome, Answer):
            return outcome
        raise no_answer(of, request.url, outcome) from outcome

    async def _attempt(self, request: httpx.Request, limit_bytes: int) -> Answer | Exception:
        """What came back, or one of _FAILURES."""
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                response = await self._client(request.url).send(request, stream=True)
                try:
                    body = await _read(response, limit_bytes)
                finally:
                    await response.aclose()
        except _FAILURES as error:
            return error
        return Answer(
            request=request,
            status=response.status_code,
            headers=response.headers,
            body=body,
        )


def _is_passing(outcome: Answer | Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(outcome, Answer):
        return outcome.status in RETRIED_STATUS
    return not is_lasting(outcome)


def _asked_wait_s(outcome: Answer | Exception) -> float | None:
    if isinstance(outcome, Answer):
        return retry_after_s(outcome.headers.get("Retry-After", ""), now=time.time())
    return None


async def _read(response: httpx.Response, limit_bytes: int) -> bytes:
    body = bytearray()
    with trio.CancelScope() as enough:  # `break` would leave httpx's inner generators open
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > limit_bytes:
                enough.cancel()
    return bytes(body)


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)


def has_address(url: httpx.URL) -> bool:
    """Whether url can be asked at all."""
    return url.scheme in ("http", "https") and bool(url.host)


def _target(of: str, url: httpx.URL, answer: Answer) -> httpx.URL:
    """Where a redirect leads; RegistryUnavailable for one that leads out of TLS or nowhere."""
    location = answer.headers.get("Location", "")
    try:
        target = url.join(location)
    except httpx.InvalidURL as error:
        raise odd_redirect(of, url, None) from error
    is_out_of_tls = url.scheme == "https" and target.scheme != "https"
    if not location or not has_address(target) or is_out_of_tls:
        raise odd_redirect(of, url, target if location else None)
    return target
