"""What went wrong between us and a registry, in words: an answer or an error in, a ClipError out.

Each says whose it is, the reason and the way out. What a peer wrote is made printable before
it goes into a message, because messages end up in events; of addresses only the host is named,
since the rest may hold a signature, and what a peer was shown is taken out of its words.

Not here: requests (`clipfs.image.http`).
"""

import os
import re
from collections.abc import Collection, Iterator

import httpx
import msgspec

from clipfs import errors
from clipfs.image.retry import RETRIED_STATUS

MAX_WORDS = 200
"""Characters of a peer's own text in a message."""

_NOT_TLS = re.compile("WRONG_VERSION|RECORD_LAYER|PACKET_LENGTH")
_NOT_TRUSTED = re.compile("CERTIFICATE_VERIFY_FAILED")
_UNKNOWN_CA = re.compile("CERTIFICATE_VERIFY_FAILED.*(self.signed|unable to get (local )?issuer)")
_OPENSSL = re.compile(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)")
_WANTS_TLS = re.compile(rb"(to an HTTPS server|sent to HTTPS port)")  # Go's words, and nginx's
_ODD_LOCATION = re.compile("Invalid URL in location header")  # httpx looks where it need not
_TIMEOUTS: dict[type[httpx.TimeoutException], str] = {
    httpx.ConnectTimeout: "connecting timed out",
    httpx.ReadTimeout: "reading timed out",
    httpx.WriteTimeout: "writing timed out",
}
"""The causes of these are trio's cancellations, whose words mean nothing to a person."""

_OF_A_MIRROR = "(a mirror: say https:// in its hosts.toml)"


class _Error(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    errors: list[_Error]


def refusal(
    of: str, status: int, body: bytes, *, part: str = "", shown: Collection[str] = ()
) -> errors.ClipError:
    """The error for a status that is not success, with the peer's own words.

    part   what was asked for if the image's own documents name it, `layer sha256:...`
    shown  secrets that the peer has been shown, and may repeat
    """
    words = _words(body, shown)
    detail = f" ({words})" if words else ""
    asked = f" for {part}" if part else ""
    if status == 401:
        wanted = (
            f", for {part}{detail}" if part else f"{detail}; there may also be no such repository"
        )
        return errors.Unauthenticated(
            f"{of}: the registry wants credentials, or other ones{wanted}"
        )
    if status == 403:
        refused = f" {part}" if part else ""
        return errors.AccessDenied(
            f"{of}: the registry refuses{refused}{detail}; these credentials may not pull it"
        )
    if status == 404 and part:
        return errors.ImageNotFound(
            f"{of}: the registry does not have {part}{detail}, which the image names; was it "
            "garbage-collected? push the image again"
        )
    if status in (404, 410):
        return errors.ImageNotFound(
            f"{of}: no such image in the registry{detail}; check its name and its tag"
        )
    if status == 400 and _WANTS_TLS.search(body):
        advice = f"; it speaks TLS: take it out of --plain-http {_OF_A_MIRROR}"
        return errors.RegistryUnavailable(f"{of}: the registry answers 400{advice}")
    if 400 <= status < 500 and status not in RETRIED_STATUS:
        return errors.AccessDenied(f"{of}: the registry refuses with {status}{asked}{detail}")
    advice = "; try again later" if status in RETRIED_STATUS or status >= 500 else ""
    return errors.RegistryUnavailable(f"{of}: the registry answers {status}{asked}{detail}{advice}")


def no_token(of: str, status: int, body: bytes, *, shown: Collection[str] = ()) -> errors.ClipError:
    """The error for a token server's answer that is not success.

    Source  RFC 6749, 5.2: credentials that are no good are a 400
    """
    if status == 404:  # of the server's address: it says nothing about the image
        return errors.RegistryUnavailable(f"{of}: there is none at the address (404)")
    is_about_us = status == 400 and not _WANTS_TLS.search(body)
    return refusal(of, 401 if is_about_us else status, body, shown=shown)


def no_answer(of: str, url: httpx.URL, error: BaseException) -> errors.RegistryUnavailable:
    """The error for a request that nothing came of."""
    reason = _reason(error)
    if isinstance(error, httpx.InvalidURL) or _ODD_LOCATION.search(reason):
        return odd_redirect(of, url, None)
    host = printable(url.netloc.decode())
    said = printable(_OPENSSL.sub("", reason))
    return errors.RegistryUnavailable(
        f"{of}: no answer from {host}: {said}; {_way_out(url, host, error, reason)}"
    )


def _way_out(url: httpx.URL, host: str, error: BaseException, reason: str) -> str:
    if _UNKNOWN_CA.search(reason):
        return "if you trust its CA, name that with --ca-file (a mirror's: ca in its hosts.toml)"
    if _NOT_TRUSTED.search(reason):
        return "the registry's certificate must be valid, and for that name"
    if url.scheme == "https" and _NOT_TLS.search(reason):
        return f"if it speaks plain HTTP, say --plain-http {host}"
    if url.scheme == "http" and isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return f"is it up? if it speaks TLS, take {host} out of --plain-http {_OF_A_MIRROR}"
    return "is it up, and can this node reach it?"


def odd_redirect(of: str, url: httpx.URL, target: httpx.URL | None) -> errors.RegistryUnavailable:
    """The error for a redirect from url that is not followed; target: None if it has no address."""
    where = "nowhere"
    if target is not None and target.host:
        where = f"{target.scheme}://{target.netloc.decode()}"
    elif target is not None:
        where = f"a {target.scheme} address without a host"
    host = printable(url.netloc.decode())
    return errors.RegistryUnavailable(
        f"{of}: {host} redirects to {printable(where)}, which is not followed; it must lead to "
        f"{url.scheme}://HOST: correct the registry's storage or its proxy"
    )


def is_lasting(error: Exception) -> bool:
    """Whether the same request will fail again: by its address, or by what TLS has found."""
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError)):
        return True
    reason = _reason(error)
    return bool(_NOT_TLS.search(reason) or _NOT_TRUSTED.search(reason))


def printable(text: str) -> str:
    """A stranger's text for a message: one short line without control characters."""
    return "".join(one for one in text[:MAX_WORDS] if one.isprintable())


def _words(body: bytes, shown: Collection[str]) -> str:
    """The message in a registry's error document; nothing if it is none, or says a secret."""
    try:
        first = msgspec.json.decode(body, type=_Refusal).errors[0]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        return ""
    words = first.message or first.code or ""
    return "" if any(secret in words for secret in shown) else printable(words)


def _reason(error: BaseException) -> str:
    """The first words in the chain of causes: trio's and httpx's own errors often have none."""
    for kind, words in _TIMEOUTS.items():
        if isinstance(error, kind):
            return words
    causes = list(_causes(error))
    attempts = [
        one for cause in causes if isinstance(cause, ExceptionGroup) for one in cause.exceptions
    ]
    refused = (os.strerror(one.errno) for one in attempts if isinstance(one, OSError) and one.errno)
    if said := ", ".join(dict.fromkeys(refused)):  # trio: one for each address of the host
        return said
    return next((str(one) for one in causes if str(one)), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
