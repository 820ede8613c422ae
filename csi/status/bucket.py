"""How many writes there may be: a burst, and from then on one every so many seconds."""

_ROUNDING = 1e-6  # of a write: what floating-point times may lack


class Bucket:
    """Times are seconds of whatever clock the caller has."""

    def __init__(self, *, burst: int, every_s: float) -> None:
        self._burst = burst
        self._every_s = every_s
        self._tokens = float(burst)
        self._at = 0.0

    def wait_s(self, now: float) -> float:
        """Until one may be taken; 0: now."""
        self._fill(now)
        missing = 1 - self._tokens
        return missing * self._every_s if missing > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        self._fill(now)
        self._tokens -= 1

    def is_full(self, now: float) -> bool:
        self._fill(now)
        return self._tokens > self._burst - _ROUNDING

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self._at) / self._every_s
        self._tokens = min(float(self._burst), self._tokens + gained)
        self._at = now
