"""What a registry's 401 asks for, and the header that answers it.

Pure: the challenge in, a plan out; the requests are `clipfs.image.registry`'s.
Source: RFC 9110, "WWW-Authenticate"; distribution, "Token Authentication Specification".
"""

import base64
import re
from dataclasses import dataclass

import msgspec

from clipfs import errors
from clipfs.image.credentials import Credentials

_SCHEME = re.compile(r"\s*([A-Za-z]+)\s+")
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?\s*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One WWW-Authenticate header: scheme in lower case, its parameters."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None


def parse_challenge(header: str) -> Challenge | None:
    """The challenge; None if the header is not one that can be answered."""
    scheme = _SCHEME.match(header)
    if scheme is None:
        return None
    parameters: dict[str, str] = {}
    at = scheme.end()
    while (one := _PARAMETER.match(header, at)) is not None:
        quoted, bare = one[2], one[3]
        parameters[one[1].lower()] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = one.end()
    return Challenge(scheme=scheme[1].lower(), parameters=parameters)


def basic(credentials: Credentials) -> str:
    """The Authorization header of RFC 7617."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def bearer(body: bytes, *, of: str) -> str:
    """The Authorization header that a token server's answer makes."""
    try:
        answer = msgspec.json.decode(body, type=_Token)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.RegistryUnavailable(f"{of}: the token server's answer is no JSON") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise errors.RegistryUnavailable(f"{of}: the token server's answer has no token")
    return f"Bearer {token}"
