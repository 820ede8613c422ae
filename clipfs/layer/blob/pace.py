"""Whether a source that does send is too slow to be waited for: pure, the clock is the caller's.

A peer that sends a byte now and then never runs into a time-out, and would hold a pass, and who
waits for it, for days.

Source: curl, "--speed-limit" and "--speed-time".
"""

SLOWEST_BYTES_PER_S = 1 << 10


class Pace:
    """Bytes and the time they took, in windows of window_s; time that nobody waited is not told."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._waited_s = 0.0
        self._bytes = 0

    def is_too_slow(self, *, count: int, waited_s: float) -> bool:
        """Take in that count bytes came after waited_s; whether a whole window was too slow."""
        self._bytes += count
        self._waited_s += waited_s
        if self._waited_s < self._window_s:
            return False
        slow = self._bytes < SLOWEST_BYTES_PER_S * self._waited_s
        self._bytes, self._waited_s = 0, 0.0
        return slow
