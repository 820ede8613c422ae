"""What dead processes left half done, swept away: none of it can be used, whatever the limits.

First passes whose filler died, partial payloads of layers that are whole, files that never got
their names, locks that nobody holds, counters and records of what is no more, logs of servers
that have ended, but for the last ones.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clipfs.layer.layout import LOCKS, Layout
from clipfs.layer.partial import fill_lock, forget_partial
from clipfs.mount import counters, records
from clipfs.mount.daemon import forget_old_logs
from clipfs.system.durable import is_forsaken
from clipfs.system.locks import alone

FRESH_S = 3600
"""A file has the name it is written under for moments; one so old is nobody's."""


def sweep(layout: Layout) -> None:
    """Remove it; what a living process is about to use stays."""
    for path in layout.partial.glob("*.first"):
        with alone(layout.proof_lock(path.name.removesuffix(".first"))) as nobody_fills:
            if nobody_fills:
                path.unlink(missing_ok=True)
    for key in {path.name.removesuffix(".chunks") for path in layout.partial.iterdir()}:
        if layout.payload(key).exists():
            with fill_lock(layout, key) as nobody_fills:
                if nobody_fills and layout.payload(key).exists():  # nobody evicts it meanwhile
                    forget_partial(layout, key)
    # not rglob: images are mounted in there, whose servers may be dead
    for path in (*layout.index.glob("*.tmp"), *layout.run.glob("*.tmp"), *_records(layout)):
        if is_forsaken(path) or _is_old(path):
            path.unlink(missing_ok=True)
    for kind in LOCKS:
        for lock in layout.run.glob(kind):
            with alone(lock):
                pass  # whoever held it last removes it
    records.forget_ended(layout)
    forget_old_logs(layout.run / "log")
    with suppress(OSError):  # a full disk must not keep us from making room on it
        counters.fold_ended(layout)


def _records(layout: Layout) -> Iterator[Path]:
    """Those that did not get their names."""
    for name in ("mounts", "volumes", "made", "left"):
        yield from (layout.run / name).glob("*.tmp")


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - FRESH_S
    except FileNotFoundError:
        return False
