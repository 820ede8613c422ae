"""Makes room: whole layers go, the least recently used first.

A layer is all that bears its cache key: pages, indexes and origin records. Its last use is its
folder's mtime: set when one of its objects is stored, and when one is read, at most every
TOUCH_S. What has been used within IN_USE_S never goes, and so nothing that is being written or
read. What an interrupted store left is a layer like others.

The indexes go first, then the folder by one rename: no index outlives its pages. A kill in the
middle leaves pages without an index, or a folder in evicted/, which the next one removes.

Not here: when room is wanted (`clipfs.content.store`).
"""

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from clipfs.content.folder import Folder, cost_of
from clipfs.content.keys import layer_of
from clipfs.content.ledger import Ledger

log = structlog.get_logger()

TOUCH_S = 30
IN_USE_S = 120
"""More than TOUCH_S and the longest time that one read may take (`connection.TRANSFER_S`)."""

LOW_PERCENT = 90
"""Once there is too much, layers go until so much of --max-bytes is left."""


def touch(folder: str) -> None:
    """Note that the layer of this folder is used now."""
    with suppress(FileNotFoundError):
        if not -TOUCH_S < time.time() - os.stat(folder).st_mtime < TOUCH_S:
            os.utime(folder)


class Evictor:
    """Removes layers from folder until there is little enough."""

    def __init__(self, folder: Folder, ledger: Ledger, max_bytes: int) -> None:
        self._folder = folder
        self._ledger = ledger
        self._low_bytes = max_bytes * LOW_PERCENT // 100
        self._running = threading.Lock()

    def evict_one(self, *, unless: Callable[[], bool]) -> bool:
        """Remove the least recently used layer; False if all that is here is in use.

        unless  asked when it is our turn: others may have made room enough before
        """
        with self._folder.evicting():
            self.empty()
            if unless():
                return True
            while (found := self._least_recently_used()) is not None:
                if self._evicted(*found):
                    return True
            return False

    def begin(self) -> None:
        """Go on down to the low watermark, behind the back of whoever wanted room."""
        if self._running.acquire(blocking=False):
            threading.Thread(target=self._run, name="eviction", daemon=True).start()

    def empty(self) -> None:
        """Remove what has been evicted; to be called with the right to evict."""
        for path in self._folder.evicted.iterdir():
            shutil.rmtree(path)

    def _run(self) -> None:
        try:
            while not self._is_low() and self.evict_one(unless=self._is_low):
                pass
        except OSError as error:
            log.warning("eviction stopped", error=str(error))
        finally:
            self._running.release()

    def _is_low(self) -> bool:
        with self._ledger.locked() as kept:
            return kept.bytes + self._folder.passing_bytes() <= self._low_bytes

    def _least_recently_used(self) -> tuple[str, int] | None:
        """The layer and its last use; None if all layers are in use."""
        found: list[tuple[int, str]] = []
        now = time.time()
        with os.scandir(self._folder.objects) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                used = entry.stat(follow_symlinks=False)
                if abs(now - used.st_mtime) > IN_USE_S:  # one of the future: the clock was set back
                    found.append((used.st_mtime_ns, entry.name))
        if not found:
            return None
        used_ns, layer = min(found)
        return layer, used_ns

    def _evicted(self, layer: str, used_ns: int) -> bool:
        """Whether it went: not if it was used since it was looked at."""
        folder = self._folder.objects / layer
        with self._ledger.change() as kept:
            try:
                if folder.stat().st_mtime_ns != used_ns:
                    return False
            except FileNotFoundError:  # somebody has tidied up by hand
                return False
            before = kept.bytes
            for index in self._indexes(layer):
                size = index.stat().st_size
                index.unlink()
                kept.bytes -= cost_of(size)
            pages = sum(cost_of(entry.stat().st_size) for entry in os.scandir(folder))
            os.rename(folder, self._folder.evicted / layer)
            kept.bytes -= pages
            kept.evictions += 1
            freed = before - kept.bytes
        self.empty()
        log.info("evicted a layer", cache_key=layer, bytes=freed)
        return True

    def _indexes(self, layer: str) -> list[Path]:
        """The index first: without it nobody looks for the rest."""
        names = [
            entry.name
            for entry in os.scandir(self._folder.objects)
            if entry.name.startswith(f"{layer}.v1.") and layer_of(entry.name) == layer
        ]
        return [self._folder.objects / name for name in sorted(names, key=_toc_first)]


def _toc_first(name: str) -> tuple[bool, str]:
    return not name.endswith(".toc"), name
