"""Which items go: decided here, from values alone; done in `clipfs.cache.collect`.

What is in use never goes. Image indexes that nobody can mount go always: unreadable ones, and
those that name a layer which is not here. Then the least recently used go first, layers and
image indexes alike, until all limits hold; an image index goes with any of its layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clipfs.cache.inventory import Item, plain_key
from clipfs.cache.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The root's file system: how big, and what of it is free."""

    size_bytes: int
    free_bytes: int


def room_bytes(items: Sequence[Item], limits: Limits, space: Space) -> int | None:
    """How many bytes more all limits allow, below 0 if they are exceeded; None: no limit."""
    room: list[int] = []
    if limits.max_bytes is not None:
        room.append(limits.max_bytes - sum(item.bytes for item in items))
    if limits.min_free_bytes is not None:
        room.append(space.free_bytes - limits.min_free_bytes)
    if limits.min_free_percent is not None:
        wanted = math.ceil(space.size_bytes * limits.min_free_percent / 100)
        room.append(space.free_bytes - wanted)
    return min(room, default=None)


def excess_bytes(items: Sequence[Item], limits: Limits, space: Space) -> int:
    """How many bytes must go for all limits to hold; 0 if they do."""
    room = room_bytes(items, limits, space)
    return max(0, -room) if room is not None else 0


def to_remove(items: Sequence[Item], limits: Limits, space: Space) -> list[Item]:
    """The items that go, in the order in which they should."""
    here = {plain_key(item.key) for item in items if item.kind == "layer"}
    idle = sorted((i for i in items if not i.users), key=lambda i: (i.last_use_ns, i.kind, i.key))
    images = [item for item in idle if item.kind == "image"]
    going = dict.fromkeys(one for one in images if one.needs is None or not one.needs <= here)
    excess = excess_bytes(items, limits, space) - sum(item.bytes for item in going)
    for item in idle:
        if excess <= 0:
            break
        gone = plain_key(item.key) if item.kind == "layer" else None
        named_by = [one for one in images if one.needs and gone in one.needs]
        for one in (*named_by, item):
            if one not in going:
                going[one] = None
                excess -= one.bytes
    return list(going)
