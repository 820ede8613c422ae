"""What an administrator lets a node's cache take: a value, imported where a start counts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What must hold after a collection, and what a fill keeps to; None: no such limit.

    max_bytes         that all items may take together
    min_free_bytes    that must be free on the root's file system
    min_free_percent  the same, as a part of that file system's size
    """

    max_bytes: int | None = None
    min_free_bytes: int | None = None
    min_free_percent: float | None = None

    def __bool__(self) -> bool:
        return self != Limits()
