"""A proxy in front of a real registry that writes down which blobs it gave, when, and to whom.

The registry's own log names nobody; of a token it is the subject that counts here.
"""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.faulty_registry import relayed
from tests.support.web import Asked, Reply, run_web


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobAnswer:
    """One answer to a GET of a blob.

    at_s  when it was whole, in seconds since the epoch
    user  who was said to ask: a name, or a token's subject; empty for nobody
    """

    at_s: float
    repository: str
    user: str
    status: int

    @property
    def is_refusal(self) -> bool:
        return self.status in (401, 403)


@dataclass(slots=True)
class WatchedRegistry:
    """Passes on what `upstream` (host:port) answers; `address` is its own."""

    upstream: str
    address: str = ""
    blobs: list[BlobAnswer] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        reply = relayed(self.upstream, asked)
        if asked.method == "GET" and "/blobs/" in asked.path:
            answer = BlobAnswer(
                at_s=time.time(),
                repository=asked.path.removeprefix("/v2/").partition("/blobs/")[0],
                user=_user(asked.headers.get("authorization", "")),
                status=reply.status,
            )
            self.blobs.append(answer)
        return reply


@contextmanager
def watched_registry(upstream: str) -> Iterator[WatchedRegistry]:
    watched = WatchedRegistry(upstream)
    with run_web(watched, keep_alive=True) as web:
        watched.address = web.address
        yield watched


def _user(authorization: str) -> str:
    scheme, _, word = authorization.partition(" ")
    if scheme == "Basic":
        return base64.b64decode(word).decode().partition(":")[0]
    if scheme == "Bearer":
        body = word.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["sub"])
    return ""
