"""What a registry's 401 asks for, and the header that answers it.

Pure: a challenge, credentials or an answer in, a header out; the requests are
`clipfs.image.registry`'s.
Source: RFC 9110, "WWW-Authenticate"; distribution, "Token Authentication Specification".
"""

import base64
import re
from dataclasses import dataclass

import msgspec

from clipfs import errors
from clipfs.image.credentials import Credentials

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=[\s,]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge: scheme and parameter names in lower case."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of one WWW-Authenticate header, as far as it can be read."""
    found: list[Challenge] = []
    at = 0
    while True:
        if found and (one := _PARAMETER.match(header, at)):
            quoted, bare = one[2], one[3]
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(one[1].lower(), value)
        elif one := _SCHEME.match(header, at):
            found.append(Challenge(scheme=one[1].lower(), parameters={}))
        else:
            return found
        at = one.end()


def basic(credentials: Credentials) -> str:
    """The Authorization header of RFC 7617."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def secrets_in(header: str) -> list[str]:
    """What of an Authorization header that we made must be told to nobody; in parts, too."""
    scheme, _, value = header.partition(" ")
    if scheme != "Basic":
        return [value] if value else []
    password = base64.b64decode(value).decode().partition(":")[2]
    return [one for one in (value, password) if one]


def refresh(identity_token: str) -> dict[str, str]:
    """What a token server is sent, beside scope and service, to trade an identity token."""
    return {
        "grant_type": "refresh_token",
        "refresh_token": identity_token,
        "client_id": "clip-csi",
    }


def bearer(body: bytes, *, of: str) -> str:
    """The Authorization header that a token server's answer makes."""
    try:
        answer = msgspec.json.decode(body, type=_Token)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.RegistryUnavailable(f"{of}: the token server's answer is no JSON") from error
    token = answer.token or answer.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise errors.RegistryUnavailable(f"{of}: the token server's answer has no token")
    return f"Bearer {token}"
