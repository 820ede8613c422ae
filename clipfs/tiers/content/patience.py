"""How long the look-ups of one mount may wait for tier 2 in all, whatever it does.

A store that hangs costs its time-out once, behind its breaker; this bounds what many slow
answers, several replicas and the search for them cost together. Decisions only, on trio's clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

TOTAL_S = 0.8
"""Of the second that a mount may be slower by than without tier 2."""

ANSWER_IS_WORTH_S = 0.02
"""A store that answers in this time is healthy: asking it is no delay."""

WORTH_BYTES_PER_S = 16 << 20
"""Bytes that come faster than this are no delay: the registry's would not come sooner."""

WORTH_S = 4
"""But of one mount no longer than this: what the largest layer index takes at that speed."""


@dataclass(slots=True)
class Waiting:
    """One look-up.

    received     the bytes of its answer; None: there was none
    is_no_delay  it says that there is something else to wait for: another node's pass
    """

    received: int | None = None
    is_no_delay: bool = False


class Patience:
    """Time in which look-ups wait runs off once, however many wait; what answers is given back."""

    def __init__(self, total_s: float = TOTAL_S) -> None:
        self._left_s = total_s
        self._worth_left_s: float = WORTH_S
        self._waiting = 0
        self._since = 0.0

    @property
    def left_s(self) -> float:
        """How long a look-up may still wait; 0: it should not begin."""
        run_off_s = trio.current_time() - self._since if self._waiting else 0
        return max(0.0, self._left_s - run_off_s)

    @property
    def longest_s(self) -> float:
        """How long a look-up may take whose bytes come fast enough; 0: it should not begin."""
        return left_s + self._worth_left_s if (left_s := self.left_s) else 0

    @contextmanager
    def waits(self) -> Iterator[Waiting]:
        """Around a look-up, which says what it got."""
        if not self._waiting:
            self._since = trio.current_time()
        self._waiting += 1
        one = Waiting()
        try:
            yield one
        finally:
            now = trio.current_time()
            if one.is_no_delay:
                self._since = now
            elif one.received is not None:
                self._give_back(one.received, now)
            self._waiting -= 1
            if not self._waiting:
                self._left_s -= now - self._since

    def _give_back(self, received: int, now: float) -> None:
        answered = min(now, self._since + ANSWER_IS_WORTH_S)
        bytes_s = min(received / WORTH_BYTES_PER_S, self._worth_left_s, now - answered)
        self._worth_left_s -= bytes_s
        self._since = answered + bytes_s
