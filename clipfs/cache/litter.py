"""What dead processes left half done, swept away: none of it can be used, whatever the limits.

First passes whose filler died, files that never got their names, records of mounts that are no
more, logs of servers that have ended, but for the last ones.
"""

import time
from pathlib import Path

from clipfs.layer.layout import Layout
from clipfs.layer.partial import fill_lock
from clipfs.mount import records
from clipfs.mount.daemon import forget_old_logs

FRESH_S = 3600
"""A file has the name it is written under for moments; one so old is a dead process's."""


def sweep(layout: Layout) -> None:
    """Remove it; what a living process is about to use stays."""
    for path in layout.partial.glob("*.first"):
        with fill_lock(layout, path.name.removesuffix(".first")) as nobody_fills:
            if nobody_fills:
                path.unlink(missing_ok=True)
    for folder in (layout.index, layout.run):
        for path in folder.rglob("*.tmp"):
            if _is_old(path):
                path.unlink(missing_ok=True)
    records.forget_ended(layout)
    forget_old_logs(layout.run / "log")


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - FRESH_S
    except FileNotFoundError:
        return False
