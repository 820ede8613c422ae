"""Whether a question that failed is asked again, and when: pure, the waiting is the caller's.

    delay_s = policy.delay_s(failed=1, elapsed_s=0.2, retry_after_s=None, draw=random.random())

Source: RFC 9110, "Retry-After".
"""

import email.utils
from dataclasses import dataclass

RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""What a registry answers when it is not the question's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds on asking again, in number and in time.

    attempts   in all, the first one too
    first_s    before the second one; twice as long before each further one
    longest_s  of these, before chance takes up to half of it away
    total_s    no attempt begins later than this after the first
    """

    attempts: int = 4
    first_s: float = 0.3
    longest_s: float = 5
    total_s: float = 30

    def delay_s(
        self, *, failed: int, elapsed_s: float, retry_after_s: float | None, draw: float
    ) -> float | None:
        """Seconds to wait before the next attempt; None: give up.

        failed         attempts so far, 1 or more
        retry_after_s  what the peer asked for, if anything: never less is waited
        draw           a random number below 1, so that many clients do not come back at once
        """
        if failed >= self.attempts:
            return None
        backoff_s = min(self.first_s * 2 ** (failed - 1), self.longest_s) * (1 - draw / 2)
        delay_s = max(backoff_s, retry_after_s or 0)
        return delay_s if elapsed_s + delay_s <= self.total_s else None


RETRY = RetryPolicy()
ONCE = RetryPolicy(attempts=1)


def retry_after_s(header: str, *, now: float) -> float | None:
    """Seconds that a Retry-After header asks for; None if it has none that can be read.

    now  seconds since the epoch, which a date is compared with
    """
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError, OSError):
        return None
