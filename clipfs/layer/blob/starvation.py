"""Whether a reader waits for bytes more than for its own work: pure, the clock is the caller's.

Not here: what is done about it (`clipfs.layer.blob.source`).
"""

STARVED_S = 0.05
STARVED_SHARE = 0.25
"""A reader that waits for bytes so long, and for this part of its time, could use more lanes."""


class Starvation:
    """Reads, each of which ends at now_s, on any clock, and waited for waited_s of it."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._waited_s = 0.0

    def add(self, *, waited_s: float, now_s: float) -> None:
        """Take in a read; what the first one waits for is the server's answer, not its bytes."""
        if self._began_s is None:
            self._began_s = now_s
        else:
            self._waited_s += waited_s

    def is_met(self, now_s: float) -> bool:
        if self._began_s is None:
            return False
        share = STARVED_SHARE * (now_s - self._began_s)
        return self._waited_s > STARVED_S and self._waited_s > share
