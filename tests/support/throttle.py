"""A relay that passes answers on at a pace, so that a download lasts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.relay import relay


@dataclass(slots=True)
class Throttle:
    """`bytes_per_s` holds for all its connections together; None: as they come.

    passed  bytes of answers so far
    """

    address: str = ""
    bytes_per_s: float | None = None
    passed: int = 0
    _pace: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Nothing waits for its turn any more."""
        self._ended.set()

    def on_piece(self, piece: bytes, is_answer: bool) -> None:
        if not is_answer:
            return
        with self._pace:
            self.passed += len(piece)
            if self.bytes_per_s is not None:
                self._ended.wait(len(piece) / self.bytes_per_s)


@contextmanager
def throttle(upstream: str, *, listen: str = "127.0.0.1:0") -> Iterator[Throttle]:
    """A relay to upstream, host:port, that has no limit yet."""
    made = Throttle()
    with relay(upstream, lambda: made.on_piece, listen=listen) as made.address:
        try:
            yield made
        finally:
            made.end()
