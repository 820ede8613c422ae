"""Which replicas a key belongs to: rendezvous hashing. Pure.

Each key has an order of all replicas of its own, the same on every node; when one replica comes
or goes, only the keys that had it near the front move.
Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).
"""

from collections.abc import Iterable
from hashlib import blake2b


def in_order(key: str, ids: Iterable[str]) -> list[str]:
    """ids from the one that key belongs to first."""
    return sorted(ids, key=lambda one: _weight(key, one), reverse=True)


def _weight(key: str, one: str) -> bytes:
    return blake2b(f"{one}\0{key}".encode(), digest_size=16).digest()
