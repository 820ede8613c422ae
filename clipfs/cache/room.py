"""How much a background fill may take of a node's disk: what all limits leave, and not a byte more.

What may be evicted does not count as room: nobody waits for such a fill, and what it would push
out somebody has used.
"""

from dataclasses import replace

from clipfs.cache.collect import space_of
from clipfs.cache.inventory import inventory
from clipfs.cache.limits import Limits
from clipfs.cache.plan import room_bytes
from clipfs.layer.layout import Layout

RESERVE_PERCENT = 10.0
"""Of the disk, where no --min-free is given: with less the kubelet begins to evict pods
(nodefs.available<10%), and first passes need room, too."""


def room_to_fill(layout: Layout, limits: Limits) -> int:
    """Bytes; below 0 if there is less than none."""
    if limits.min_free_bytes is None and limits.min_free_percent is None:
        limits = replace(limits, min_free_percent=RESERVE_PERCENT)
    items = inventory(layout) if limits.max_bytes is not None else []
    room = room_bytes(items, limits, space_of(layout))
    assert room is not None  # one limit is given now
    return room
