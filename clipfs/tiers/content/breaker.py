"""Keeps a replica that is down from delaying every read.

Decisions only, on trio's clock; what counts as a failure is `clipfs.tiers.content.exchange`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from clipfs.log import log

FIRST_WAIT_S, MOST_WAIT_S = 1, 30
"""After a failure; twice as long after each one more."""

SOON_S = 0.25
"""A caller to whom an answer is dear asks again so long after a failure."""


@dataclass(slots=True)
class Breaker:
    """Opens after a failure, for longer each time; one request tries again when that is over.

    on_failure  called at each failure, also those that change nothing here
    """

    replica: str = ""
    on_failure: Callable[[], None] = lambda: None
    _until: float = field(default=0, init=False)
    _wait_s: float = field(default=0, init=False)
    _failed_at: float = field(default=0, init=False)
    _trying: bool = field(default=False, init=False)
    _soon: bool = field(default=False, init=False)
    _since: float | None = field(default=None, init=False)

    @property
    def failed_at(self) -> float:
        """When the last failure that counts was; of no meaning once it is over."""
        return self._failed_at

    @property
    def down_since(self) -> float | None:
        """When the first request of the outage was begun; None: there is none."""
        return self._since

    def allows(self, *, soon: bool = False) -> bool:
        """Whether to ask now. A caller that is allowed must say how it went.

        soon  ask before the wait is over: SOON_S after the last failure
        """
        now = trio.current_time()
        if soon and self._wait_s and not (self._trying and now < self._until):
            if now < self._failed_at + SOON_S:
                return False
        elif now < self._until:
            return False
        if self._wait_s:  # this caller tries; the others wait for what it finds
            self._until = now + self._wait_s
            self._trying, self._soon = True, soon
        return True

    def succeeded(self) -> None:
        """Say that a request was answered: from now on all are allowed."""
        if self._wait_s:
            log.info("content cache is back", replica=self.replica)
        self._until = self._wait_s = 0
        self._trying, self._since = False, None

    def failed(self, reason: str, *, begun: float | None = None) -> None:
        """Say that a request was not: none is allowed until the wait, now longer, is over.

        begun  when the request was; None: now
        """
        self.on_failure()
        now = trio.current_time()
        if self._wait_s and not self._trying:
            return  # one of many requests that the same outage has met
        if not self._wait_s:
            log.warning("content cache unavailable", replica=self.replica, error=reason)
            self._since = now if begun is None else begun
        if not (self._wait_s and self._soon):  # who asks before his turn makes no wait longer
            self._wait_s = min(MOST_WAIT_S, self._wait_s * 2 or FIRST_WAIT_S)
        self._until = now + self._wait_s
        self._failed_at = now
        self._trying = False
