"""Which keys are asked for again and again, and are not there. Pure, and bounded.

A layer is asked for once before it is stored, so a key that many ask for in vain tells of a
store that fails, or of nodes that sign with different keys.
"""

from collections import OrderedDict

MANY = 10
MAX_KEYS = 4096


class Misses:
    """Counts the misses of the keys that were missed last."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def add(self, key: str) -> bool:
        """Count one more miss of key; whether it is worth a warning, every MANY-th time."""
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > MAX_KEYS:
            self._counts.popitem(last=False)
        return count % MANY == 0

    def forget(self, key: str) -> None:
        """The key is there now."""
        self._counts.pop(key, None)
