"""A token server as a registry's `auth: token` wants it: JWTs by RS256, certificate in x5c.

Users may do all, or what `may` says, but for `denied/...`, which is 403; a stranger may pull from
`public/...`.
Source: distribution, "Token Authentication Specification" and its implementation notes.
"""

import base64
import itertools
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from tests.support.registry import Certificate, TokenAuth
from tests.support.web import Asked, Reply, WebServer, run_web

SERVICE, ISSUER = "test-registry", "test-issuer"
LIFE_S = 300
LEEWAY_S = 60
"""For so long after a token's end the registry still takes it (distribution, token.Leeway)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token: when it was made, in seconds since the epoch, for whom and for what."""

    at_s: float
    user: str
    scope: str


@dataclass(frozen=True, slots=True)
class TokenServer:
    """A running token server, what a registry is told of it, and passwords by name.

    issued  its tokens so far, by the subject that the registry's log names
    """

    web: WebServer
    auth: TokenAuth
    users: dict[str, str]
    issued: dict[str, Issued]


@contextmanager
def run_token_server(
    certificate: Certificate,
    *,
    users: dict[str, str],
    identity_tokens: tuple[str, ...] = (),
    life_s: int = LIFE_S,
    may: Callable[[str, str], bool] = lambda user, repository: True,
    listen: str = "127.0.0.1:0",
) -> Iterator[TokenServer]:
    """users: passwords by name, which may change; identity_tokens: what may be traded by POST.

    life_s  of a token; the registry gives it LEEWAY_S more
    may     whether a user may have a repository
    """
    issued: dict[str, Issued] = {}
    numbers = itertools.count(1)

    def respond(asked: Asked) -> Reply:
        query = parse_qs(asked.body.decode() or urlsplit(asked.path).query)
        known = _is_known(asked, query, users, identity_tokens)
        scope = query.get("scope", [""])[0]
        if known is False:
            return Reply(401, body=b'{"errors": [{"message": "wrong password"}]}')
        if scope.startswith("repository:denied/"):
            return Reply(403, body=b'{"errors": [{"message": "not for you"}]}')
        if query.get("service") != [SERVICE]:
            return Reply(400, body=b'{"errors": [{"message": "unknown service"}]}')
        user = _basic(asked)[0] if known else ""
        subject = f"{user or 'anonymous'}#{next(numbers)}"
        issued[subject] = Issued(at_s=time.time(), user=user, scope=scope)
        repository = scope.partition(":")[2].rpartition(":")[0]
        granted = _access(scope, known=bool(known) and may(user, repository))
        token = _token(certificate, subject, granted, life_s)
        return Reply(body=json.dumps({"token": token}).encode())

    with run_web(respond, listen=listen) as web:
        realm = f"http://{web.address}/token"
        yield TokenServer(
            web,
            TokenAuth(realm=realm, service=SERVICE, issuer=ISSUER, certificate=certificate),
            users,
            issued,
        )


def _is_known(
    asked: Asked, query: dict[str, list[str]], users: dict[str, str], tokens: tuple[str, ...]
) -> bool | None:
    """Whether the credentials are right; None without any."""
    if asked.method == "POST":
        return query.get("grant_type") == ["refresh_token"] and query["refresh_token"][0] in tokens
    name, password = _basic(asked)
    return None if not name else users.get(name) == password


def _basic(asked: Asked) -> tuple[str, str]:
    """Name and password; empty without."""
    scheme, _, word = asked.headers.get("authorization", "").partition(" ")
    if scheme != "Basic":
        return "", ""
    name, _, password = base64.b64decode(word).decode().partition(":")
    return name, password


def _access(scope: str, *, known: bool) -> list[dict[str, object]]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    granted = [
        action
        for action in actions.split(",")
        if known or (action == "pull" and name.startswith("public/"))
    ]
    return [{"type": kind, "name": name, "actions": granted}] if granted else []


def _token(
    certificate: Certificate, subject: str, access: list[dict[str, object]], life_s: int
) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())
    header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    claims = {
        "iss": ISSUER, "sub": subject, "aud": SERVICE, "jti": "1", "access": access,
        "exp": now + life_s, "nbf": now - LIFE_S, "iat": now,
    }  # fmt: skip  # one claim set, two lines
    signed = f"{_url64(json.dumps(header).encode())}.{_url64(json.dumps(claims).encode())}"
    signature = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(certificate.key)],
        input=signed.encode(),
        capture_output=True,
        check=True,
    ).stdout
    return f"{signed}.{_url64(signature)}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
