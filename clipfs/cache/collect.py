"""Makes room under a root: does what `clipfs.cache.plan` decides.

Any number of processes may collect at the same time, and mount meanwhile. An item is removed
under its lock, held alone, after another look at who uses it: a mount that is being prepared
holds that lock, one that is mounted has its record. What is locked counts as in use, and others
go instead.

Not here: what dead processes left half done (`clipfs.cache.litter`).
"""

import os
from collections.abc import Collection
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clipfs import errors
from clipfs.cache.inventory import Item, files_of, inventory, last_use_ns, users_of
from clipfs.cache.limits import Limits
from clipfs.cache.litter import sweep
from clipfs.cache.plan import Space, excess_bytes, to_remove
from clipfs.layer.layout import Layout
from clipfs.layer.partial import fill_lock
from clipfs.log import log
from clipfs.mount import counters
from clipfs.system.cached import discard
from clipfs.system.locks import alone


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
    try:
        sweep(layout)
    except OSError as error:  # it may want a lock's file, for which there is no room yet
        if not errors.is_the_disks(error):
            raise
        log.warning("not swept", error=str(errors.node_fault(error)))
    removed: list[Item] = []
    locked: set[str] = set()
    while True:
        items = [_seen(item, locked) for item in inventory(layout)]
        space = space_of(layout)
        going = to_remove(items, limits, space)
        gone = [item for item in going if _removed(layout, item)]
        removed += gone
        locked.update(item.key for item in going if item not in gone)
        _count(layout, gone)
        if not going:
            return Collected(
                removed=removed,
                kept_bytes=sum(item.bytes for item in items),
                free_bytes=space.free_bytes,
                excess_bytes=excess_bytes(items, limits, space),
            )


def _count(layout: Layout, gone: Collection[Item]) -> None:
    """Layers, as evictions; a disk that refuses loses the number, and no room."""
    if layers := sum(item.kind == "layer" for item in gone):
        with suppress(OSError):
            counters.count_evicted(layout, layers)


def space_of(layout: Layout) -> Space:
    found = os.statvfs(layout.root)
    return Space(
        size_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize
    )


def _seen(item: Item, locked: Collection[str]) -> Item:
    return replace(item, users=(*item.users, "a lock")) if item.key in locked else item


def _removed(layout: Layout, item: Item) -> bool:
    """Whether the item went: not if somebody took it up since it was looked at."""
    with ExitStack() as held:
        unused = _is_mine(held, alone(layout.use_lock(item.key)), layout.use_lock(item.key))
        unfilled = _is_mine(held, fill_lock(layout, item.key), layout.fill_lock(item.key))
        if not (unused and unfilled) or item.key in users_of(layout):
            return False
        if last_use_ns(layout, item) != item.last_use_ns:
            return False
        for path in files_of(layout, item):
            discard(path)
    log.info("removed from the cache", cache_key=item.key, kind=item.kind, bytes=item.bytes)
    return True


def _is_mine(held: ExitStack, lock: AbstractContextManager[bool], path: Path) -> bool:
    """Whether the lock at path is held alone now, until held ends.

    On a disk without room for the lock's file nobody has it, and nobody comes to have it: to
    make room must not need any.
    """
    try:
        return held.enter_context(lock)
    except OSError as error:
        if errors.is_the_disks(error) and not path.exists():
            return True
        raise
