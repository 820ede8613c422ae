"""Hands layers to the content cache behind the readers' backs, and says which are on their way.

`run/storing/<cache key>` exists while a layer waits or is stored; it names the process, so
that one left by a process that died is taken up by the next mount of that layer.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import trio

from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.processes import is_running, name_of
from clipfs.tiers.content_client import ContentCache
from clipfs.tiers.storing import store_layer
from clipfs.tiers.tier import IndexedLayer


class Storer:
    """Stores one layer at a time, in `nursery`; a failure is store_layer's warning.

    With a token that may only read, the first store says so and the others are left out.
    """

    def __init__(
        self, cache: ContentCache, layout: Layout, keys: KeyRing, nursery: trio.Nursery
    ) -> None:
        self._cache = cache
        self._layout = layout
        self._keys = keys
        self._nursery = nursery
        self._one = trio.CapacityLimiter(1)
        self._waiting = 0
        self._idle = trio.Event()

    def store_soon(self, layer: IndexedLayer) -> None:
        """Never blocks and never fails: a reader must not wait for a store."""
        note_storing(self._layout, layer.cache_key)
        self._waiting += 1
        self._nursery.start_soon(self._store, layer)

    async def drain(self) -> None:
        """Return when nothing is on its way any more."""
        while self._waiting:
            await self._idle.wait()

    async def _store(self, layer: IndexedLayer) -> None:
        try:
            async with self._one:
                if self._cache.may_store:
                    payload = self._layout.payload(layer.cache_key)
                    await store_layer(self._cache, self._keys, layer, payload)
            _marker(self._layout, layer.cache_key).unlink(missing_ok=True)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()
                self._idle = trio.Event()


def note_storing(layout: Layout, key: str) -> None:
    """Say that this process stores the layer, or means to."""
    marker = _marker(layout, key)
    marker.parent.mkdir(mode=0o700, exist_ok=True)
    marker.write_text(name_of(os.getpid()) + "\n")


def storing_now(layout: Layout) -> list[str]:
    """Cache keys of the layers that a living process has on their way."""
    return sorted(path.name for path in _markers(layout) if _is_alive(path))


def left_behind(layout: Layout, layers: Iterable[IndexedLayer]) -> list[IndexedLayer]:
    """Which of layers a dead process was to store, as far as their payload is whole."""
    names = {path.name for path in _markers(layout) if not _is_alive(path)}
    return [
        layer
        for layer in {one.cache_key: one for one in layers}.values()
        if layer.cache_key in names and layout.payload(layer.cache_key).exists()
    ]


def _marker(layout: Layout, key: str) -> Path:
    return layout.run / "storing" / key


def _markers(layout: Layout) -> list[Path]:
    folder = layout.run / "storing"
    return list(folder.iterdir()) if folder.exists() else []


def _is_alive(marker: Path) -> bool:
    try:
        return is_running(marker.read_text().strip())
    except FileNotFoundError:
        return False
