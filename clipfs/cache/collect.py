"""Makes room under a root: does what `clipfs.cache.plan` decides.

Any number of processes may collect at the same time, and mount meanwhile. An item is removed
under its lock, held alone, after another look at who uses it: a mount that is being prepared
holds that lock, one that is mounted has its record.

Not here: what dead processes left half done (`clipfs.cache.litter`).
"""

import os
from dataclasses import dataclass

import structlog

from clipfs.cache.inventory import Item, files_of, inventory, last_use_ns, users_of
from clipfs.cache.litter import sweep
from clipfs.cache.plan import Limits, Space, excess_bytes, to_remove
from clipfs.layer.layout import Layout
from clipfs.layer.partial import fill_lock
from clipfs.system.locks import alone

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What went and what stayed; excess_bytes: what should have gone too, but is in use."""

    removed: list[Item]
    kept_bytes: int
    free_bytes: int
    excess_bytes: int


def collect(layout: Layout, limits: Limits) -> Collected:
    """Remove what may go until limits hold, or all that is left is in use."""
    layout.make()
    sweep(layout)
    removed: list[Item] = []
    while True:
        items, space = inventory(layout), space_of(layout)
        went = [item for item in to_remove(items, limits, space) if _removed(layout, item)]
        removed += went
        if not went:
            return Collected(
                removed=removed,
                kept_bytes=sum(item.bytes for item in items),
                free_bytes=space.free_bytes,
                excess_bytes=excess_bytes(items, limits, space),
            )


def space_of(layout: Layout) -> Space:
    found = os.statvfs(layout.root)
    return Space(
        size_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize
    )


def _removed(layout: Layout, item: Item) -> bool:
    """Whether the item went: not if somebody took it up since it was looked at."""
    with alone(layout.use_lock(item.key)) as unused, fill_lock(layout, item.key) as unfilled:
        if not (unused and unfilled) or item.key in users_of(layout):
            return False
        if last_use_ns(layout, item) != item.last_use_ns:
            return False
        for path in files_of(layout, item):
            path.unlink(missing_ok=True)
    log.info("removed from the cache", cache_key=item.key, kind=item.kind, bytes=item.bytes)
    return True
