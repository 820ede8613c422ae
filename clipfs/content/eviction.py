"""Eviction: whole layers, the least recently used first.

A layer is all that bears its cache key: pages, indexes and origin records, also those that an
interrupted store left. Its last use is its folder's mtime, set when one of its objects is stored,
and when one is read, at most every TOUCH_S. A layer used within IN_USE_S is never evicted, and so
nothing that is being read.

The indexes are removed first, then the folder by one rename: no index outlives its pages. A kill
in between leaves pages without an index, or a folder in evicted/, which the next eviction removes.

Not here: when room is wanted (`clipfs.content.store`).
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipfs.content.deadlines import transfer_s
from clipfs.content.folder import Folder, cost_of
from clipfs.content.keys import MAX_INDEX_BYTES, layer_of
from clipfs.content.ledger import Ledger, Usage
from clipfs.log import log

TOUCH_S = 30
IN_USE_S = TOUCH_S + transfer_s(MAX_INDEX_BYTES)
"""A read may have begun TOUCH_S after the use that was noted last, and go on that long."""

LOW_PERCENT = 90
"""The low watermark, of --max-bytes: evictions go on down to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What goes together: a folder of pages, and the names of the indexes beside it."""

    used_ns: int
    key: str
    indexes: tuple[str, ...]


def touch(folder: str) -> None:
    """Note that the layer of this folder is used now, if that can be noted."""
    with suppress(OSError):  # no folder, or a disk that takes no writes: the use goes on
        if not -TOUCH_S < time.time() - os.stat(folder).st_mtime < TOUCH_S:
            os.utime(folder)


class Evictor:
    """Evicts layers of one folder."""

    def __init__(self, folder: Folder, ledger: Ledger, max_bytes: int) -> None:
        self._folder = folder
        self._ledger = ledger
        self._low_bytes = max_bytes * LOW_PERCENT // 100
        self._running = threading.Lock()
        self._stopped = threading.Event()

    def evict(self, *, until: Callable[[], bool]) -> bool | None:
        """Evict layers, the least recently used first.

        Returns  whether until holds; False: all that is left is in use; None: another one evicts
        """
        with self._folder.evicting() as is_ours:
            if not is_ours:
                return None
            self._folder.remove_evicted()
            for layer in self._idle_layers():
                if until():
                    return True
                self._remove(layer)
            return until()

    def start(self) -> None:
        """Evict down to the low watermark, in a thread; nothing if one is at it."""
        if self._running.acquire(blocking=False):
            threading.Thread(target=self._run, name="eviction").start()

    def stop(self) -> None:
        """End that thread behind the layer that it removes; the process waits for it."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            self.evict(until=self._is_low_enough)
        except OSError as error:
            log.warning("eviction stopped", error=str(error))
        finally:
            self._running.release()

    def _is_low_enough(self) -> bool:
        if self._stopped.is_set():
            return True
        with self._ledger.locked() as usage:
            return usage.bytes + self._folder.transit_bytes() <= self._low_bytes

    def _idle_layers(self) -> list[_Layer]:
        """Those that are not in use, the least recently used first."""
        now = time.time()
        layers: dict[str, int] = {}
        indexes: dict[str, list[str]] = {}
        with os.scandir(self._folder.objects) as entries:
            for entry in entries:
                key = layer_of(entry.name)
                if key is None:
                    continue  # not ours
                if key != entry.name:
                    indexes.setdefault(key, []).append(entry.name)
                    continue
                used = entry.stat(follow_symlinks=False)
                if abs(now - used.st_mtime) > IN_USE_S:  # one of the future: the clock was set back
                    layers[entry.name] = used.st_mtime_ns
        idle = [
            _Layer(used_ns=used_ns, key=key, indexes=tuple(indexes.get(key, ())))
            for key, used_ns in layers.items()
        ]
        return sorted(idle, key=lambda layer: (layer.used_ns, layer.key))

    def _remove(self, layer: _Layer) -> None:
        """Unless it was used meanwhile: then its list of indexes may be old, too."""
        folder = self._folder.objects / layer.key
        with self._ledger.change() as usage:
            try:
                if folder.stat().st_mtime_ns != layer.used_ns:
                    return
            except FileNotFoundError:  # somebody has tidied up by hand
                return
            before = usage.bytes
            for name in sorted(layer.indexes, key=lambda name: not name.endswith(".toc")):
                self._unlink(self._folder.objects / name, usage)
            pages = sum(cost_of(entry.stat().st_size) for entry in os.scandir(folder))
            os.rename(folder, self._folder.evicted / layer.key)
            usage.bytes -= pages
            usage.evictions += 1
            freed = before - usage.bytes
        self._folder.remove_evicted()
        log.info("evicted a layer", cache_key=layer.key, bytes=freed)

    def _unlink(self, path: Path, usage: Usage) -> None:
        with suppress(FileNotFoundError):  # it was deleted since
            size = path.stat().st_size
            path.unlink()
            usage.bytes -= cost_of(size)
