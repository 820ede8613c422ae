"""Who wants a piece of work, and for how long it goes on that nobody waits for.

Pure: the clock is its caller's. Not here: the work (`csi.work`).
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Interest:
    """Who wants a piece of work: who waits for it, and who was sent away and may come again."""

    waiting: int = 0
    sent_away: set[str] = field(default_factory=set)
    last_s: float = 0

    def comes(self, name: str) -> None:
        self.waiting += 1
        self.sent_away.discard(name)

    def goes(self, name: str, now: float, *, served: bool) -> None:
        """served  it was given what it came for, or an error"""
        self.waiting -= 1
        if not served:
            self.sent_away.add(name)
            self.last_s = now

    def lasts(self, now: float, linger_s: float) -> bool:
        return bool(self.waiting or (self.sent_away and now < self.last_s + linger_s))
