"""Which layers are on their way to the content cache: marks that outlive their process.

`run/storing/<cache key>` exists while a layer waits or is stored, and names the process that
does it. One that names no living process is a layer that was not stored: the next mount of it,
or `clipfs index`, takes it up.

Not here: the storing itself (`clipfs.tiers.storer`).
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.system.processes import is_running, name_of
from clipfs.tiers.tier import IndexedLayer

NOBODY = "nobody"


def mark_storing(layout: Layout, key: str) -> None:
    """Say that this process stores the layer, or means to."""
    _write(layout, key, name_of(os.getpid()))


def mark_failed(layout: Layout, key: str) -> None:
    """Say that the layer could not be stored now, and should be tried again."""
    _write(layout, key, NOBODY)


def unmark(layout: Layout, key: str) -> None:
    with contextlib.suppress(OSError):  # a mark too many has the layer stored again
        _mark(layout, key).unlink(missing_ok=True)


def forget_processes(layout: Layout) -> None:
    """Say that nobody stores any layer: the processes that marks name were of an earlier boot."""
    for mark in _marks(layout):
        mark_failed(layout, mark.name)


def storing_now(layout: Layout) -> list[str]:
    """Cache keys of the layers that a living process has on their way."""
    return sorted(path.name for path in _marks(layout) if _is_alive(path))


def left_behind(layout: Layout, layers: Iterable[IndexedLayer]) -> list[IndexedLayer]:
    """Which of layers somebody failed to store, as far as their payload is whole."""
    names = {path.name for path in _marks(layout) if not _is_alive(path)}
    return [
        layer
        for layer in {one.cache_key: one for one in layers}.values()
        if layer.cache_key in names and layout.payload(layer.cache_key).exists()
    ]


def _write(layout: Layout, key: str, who: str) -> None:
    """A disk that refuses loses the mark: no reader and no store waits for that."""
    mark = _mark(layout, key)
    try:
        mark.parent.mkdir(mode=0o700, exist_ok=True)
        mark.write_text(who + "\n")
    except OSError as error:
        log.warning("layer is stored without a mark", cache_key=key, error=str(error))


def _mark(layout: Layout, key: str) -> Path:
    return layout.run / "storing" / key


def _marks(layout: Layout) -> list[Path]:
    folder = layout.run / "storing"
    return list(folder.iterdir()) if folder.exists() else []


def _is_alive(mark: Path) -> bool:
    try:
        return is_running(mark.read_text().strip())
    except FileNotFoundError:
        return False
