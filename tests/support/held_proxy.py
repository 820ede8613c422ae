"""A relay before a content cache that can hold the answers to requests for pages."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.relay import OnPiece, relay

_PAGE = re.compile(rb"GET /v1/objects/(sha256_[0-9a-f]{64})/(\d{6}) HTTP/1\.1\r\n")
_RANGE = re.compile(rb"\r\nRange: bytes=(\d+)-(\d+)\r\n")
_PAGE_BYTES = 8 << 20


@dataclass(slots=True)
class HeldProxy:
    """`asked`: layer and payload range of each request for a part of a page, in their order.

    waiting  how many answers are held now
    """

    url: str = ""
    asked: list[tuple[str, range]] = field(default_factory=list)
    waiting: int = 0
    _after: int | None = None
    _goes: str | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def hold(self, *, after: int) -> None:
        """Hold every answer but those to the first so many requests."""
        self._set(after, None)

    def let_go(self, layer: str | None = None) -> None:
        """Hold nothing any more, or no answer of layer's."""
        self._set(None if layer is None else self._after, layer)

    def _set(self, after: int | None, goes: str | None) -> None:
        with self._changed:
            self._after, self._goes = after, goes
            self._changed.notify_all()

    def _is_held(self, number: int) -> bool:
        return (
            self._after is not None
            and number >= self._after
            and self.asked[number][0] != self._goes
        )

    def _wait(self, number: int) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: not self._is_held(number))
            self.waiting -= 1

    def layers(self) -> set[str]:
        return {key for key, _ in self.asked}

    def on_connection(self) -> OnPiece:
        number: int | None = None

        def on_piece(piece: bytes, is_answer: bool) -> None:
            nonlocal number
            if not is_answer:
                number = None
                page, part = _PAGE.match(piece), _RANGE.search(piece)
                if page and part:
                    start = int(page[2]) * _PAGE_BYTES
                    number = len(self.asked)
                    wanted = range(start + int(part[1]), start + int(part[2]) + 1)
                    self.asked.append((page[1].decode(), wanted))
            elif number is not None and self._is_held(number):
                self._wait(number)

        return on_piece


@contextmanager
def held_proxy(upstream_port: int) -> Iterator[HeldProxy]:
    """A relay to the content cache at upstream_port, which may go and come meanwhile."""
    proxy = HeldProxy()
    with relay(f"127.0.0.1:{upstream_port}", proxy.on_connection) as address:
        proxy.url = f"http://{address}"
        try:
            yield proxy
        finally:
            proxy.let_go()
