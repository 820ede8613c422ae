"""A relay that holds the bytes of one direction up when it is told to, so that a fault meets
requests in flight."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.relay import OnPiece, relay


@dataclass(slots=True)
class Valve:
    """`in_flight` connections are held up now."""

    address: str = ""
    in_flight: int = 0
    _holds: bool | None = None
    _after: int = 0
    _gate: threading.Event = field(default_factory=threading.Event)
    _caught: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, *, answers: bool, after_bytes: int) -> None:
        """Let so many bytes of answers, or of requests, pass; hold up what comes then."""
        self._gate.clear()
        self._caught.clear()
        self._after, self._holds = after_bytes, answers

    def wait(self) -> int:
        """Until something is held up; how many connections are."""
        assert self._caught.wait(30), "nothing came to be held up"
        return self.in_flight

    def let_go(self) -> None:
        self._holds = None
        self._gate.set()

    def on_connection(self) -> OnPiece:
        def on_piece(piece: bytes, is_answer: bool) -> None:
            if self._holds is not is_answer:
                return
            with self._lock:
                self._after -= len(piece)
                if self._after > 0:
                    return
                self.in_flight += 1
            self._caught.set()
            self._gate.wait()
            with self._lock:
                self.in_flight -= 1

        return on_piece


@contextmanager
def valve(upstream: str) -> Iterator[Valve]:
    """A relay to upstream, host:port, that is open."""
    made = Valve()
    with relay(upstream, made.on_connection) as made.address:
        try:
            yield made
        finally:
            made.let_go()
