"""A call that waits, as the driver sees it: who still wants its answer, and by when.

Pure, but for what `still_wanted` asks.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from csi.errors import StillIndexing
from csi.locks import StillWanted, always

ANSWER_EARLY_S = 5
"""Before a call's time is up: an answer that comes too late tells people nothing."""

CALL_S = 120
"""A call's time where it does not say: the kubelet's own."""

_FOR_EVER_S = 365 * 86400
"""gRPC says so of a call without a deadline, and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """still_wanted  whether its caller still waits
    answer_by     when it must be answered, by `clock`
    """

    still_wanted: StillWanted = always
    answer_by: float = math.inf
    clock: Callable[[], float] = time.monotonic

    def left_s(self) -> float:
        return self.answer_by - self.clock()

    def check_time(self, words: Callable[[], str]) -> None:
        """StillIndexing, with these words, if its time is up."""
        if self.left_s() <= 0:
            raise StillIndexing(words())


def wait_s(remaining_s: float) -> float:
    """How long a call may wait that has so much time left.

    One that has hardly any is given a second, or half of what it has: what is on the node
    already is mounted in that.
    """
    if remaining_s > _FOR_EVER_S:
        remaining_s = CALL_S
    return max(remaining_s - ANSWER_EARLY_S, min(1.0, remaining_s / 2))
