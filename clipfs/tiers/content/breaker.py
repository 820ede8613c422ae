"""Keeps a content cache that is down from delaying every read.

Decisions only, on trio's clock; what counts as a failure is `clipfs.tiers.content.replica`'s.
"""

from dataclasses import dataclass, field

import structlog
import trio

log = structlog.get_logger()


@dataclass(slots=True)
class Breaker:
    """Opens after a failure, for longer each time; one request tries again when that is over."""

    first_s: float = 1
    most_s: float = 30
    _until: float = field(default=0, init=False)
    _wait_s: float = field(default=0, init=False)
    _trying: bool = field(default=False, init=False)

    def allows(self) -> bool:
        """Whether to ask now. A caller that is allowed must say how it went."""
        if trio.current_time() < self._until:
            return False
        if self._wait_s:  # this caller tries; the others wait for what it finds
            self._until = trio.current_time() + self._wait_s
            self._trying = True
        return True

    def succeeded(self) -> None:
        """Say that a request was answered: from now on all are allowed."""
        if self._wait_s:
            log.info("content cache is back")
        self._until = self._wait_s = 0
        self._trying = False

    def failed(self, reason: str) -> None:
        """Say that a request was not: none is allowed until the wait, now longer, is over."""
        if self._wait_s and not self._trying:
            return  # one of many requests that the same outage has met
        if not self._wait_s:
            log.warning("content cache unavailable", error=reason)
        self._wait_s = min(self.most_s, self._wait_s * 2 or self.first_s)
        self._until = trio.current_time() + self._wait_s
        self._trying = False
