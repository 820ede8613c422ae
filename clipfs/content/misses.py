"""Counts how often keys are missed, in a table of fixed size.

A layer is missed once before it is stored, so a key that is missed again and again tells of a
store that fails, or of nodes that sign with different keys. The memory is shared with processes
that are forked later. The counts are a hint: two keys in one slot push each other out, and two
processes that count in one slot at the same moment may count once.
"""

import hashlib
import mmap

MANY = 10
MAX_KEYS = 4096

_NUMBERS = 2  # a slot holds a key's fingerprint, and its misses


class Misses:
    """The misses of the keys that were missed last."""

    def __init__(self) -> None:
        self._slots = memoryview(mmap.mmap(-1, MAX_KEYS * _NUMBERS * 8)).cast("Q")

    def add(self, key: str) -> bool:
        """Count one more miss of key; whether it is worth a warning: each MANY-th one."""
        at, fingerprint = _slot_of(key)
        count = self._slots[at + 1] + 1 if self._slots[at] == fingerprint else 1
        self._slots[at], self._slots[at + 1] = fingerprint, count
        return count % MANY == 0

    def forget(self, key: str) -> None:
        """The key is there now."""
        at, fingerprint = _slot_of(key)
        if self._slots[at] == fingerprint:
            self._slots[at + 1] = 0


def _slot_of(key: str) -> tuple[int, int]:
    """Where key is counted, and the fingerprint that tells it from others there."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    slot = int.from_bytes(digest[:8], "little") % MAX_KEYS
    return slot * _NUMBERS, int.from_bytes(digest[8:], "little")
