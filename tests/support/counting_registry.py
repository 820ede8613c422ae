"""A proxy in front of a real registry that counts what it sends of each blob."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tests.support.faulty_registry import PROBE, relayed
from tests.support.web import Asked, Reply, run_web


@dataclass(slots=True)
class CountingRegistry:
    """Passes on what `upstream` (host:port) answers, blobs at bytes_per_s each.

    address  its own, host:port
    bytes_per_s  may be changed on the way
    sent     bytes by digest, of each answer all, though its reader may have gone
    """

    upstream: str
    bytes_per_s: float | None
    address: str = ""
    sent: Counter[str] = field(default_factory=Counter)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, asked: Asked) -> Reply:
        reply = relayed(self.upstream, asked)
        if "/blobs/" not in asked.path or asked.headers.get("range") == PROBE:
            return reply
        with self._counting:
            self.sent[asked.path.rpartition("/")[2]] += len(reply.body)
        return replace(reply, bytes_per_s=self.bytes_per_s)


@contextmanager
def counting_registry(
    upstream: str, *, bytes_per_s: float | None = None
) -> Iterator[CountingRegistry]:
    """It runs until the block ends."""
    counting = CountingRegistry(upstream, bytes_per_s)
    with run_web(counting, keep_alive=True) as web:
        counting.address = web.address
        yield counting
