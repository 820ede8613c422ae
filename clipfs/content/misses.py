"""Which keys are asked for again and again, and are not there. Pure, and bounded.

A layer is asked for once before it is stored, so a key that many ask for in vain tells of a
store that fails, or of nodes that sign with different keys. The memory is shared with processes
that are forked later: each of them counts on. Two keys that fall on one place push each other
out, and what two processes do to one place at the same moment may count once; it is a hint.
"""

import hashlib
import mmap

MANY = 10
MAX_KEYS = 4096

_NUMBERS = 2  # a place holds a key's hash, and its misses


class Misses:
    """Counts the misses of the keys that were missed last."""

    def __init__(self) -> None:
        self._places = memoryview(mmap.mmap(-1, MAX_KEYS * _NUMBERS * 8)).cast("Q")

    def add(self, key: str) -> bool:
        """Count one more miss of key; whether it is worth a warning, every MANY-th time."""
        at, print_of_key = _place(key)
        count = self._places[at + 1] + 1 if self._places[at] == print_of_key else 1
        self._places[at], self._places[at + 1] = print_of_key, count
        return count % MANY == 0

    def forget(self, key: str) -> None:
        """The key is there now."""
        at, print_of_key = _place(key)
        if self._places[at] == print_of_key:
            self._places[at + 1] = 0


def _place(key: str) -> tuple[int, int]:
    """Where key is counted, and what tells it from others there."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    place = int.from_bytes(digest[:8], "little") % MAX_KEYS
    return place * _NUMBERS, int.from_bytes(digest[8:], "little")
