"""Who uses what is cached, and when it was used last: what eviction asks before it removes.

Whoever prepares an image holds a shared lock on each of its layers and on its image index,
until its mount's record is written (`clipfs.mount.records`), which counts from then on. Eviction
holds the lock alone while it removes.

Last use is the mtime of the index: a mount touches it when it begins and when it ends. A look
at atime would be free, but relatime and noatime make that lie.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from clipfs.layer.layout import Layout
from clipfs.system.locks import end_share, share


class InUse:
    """What this process uses; a context manager, at whose end it uses nothing."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            end_share(*self._held.popitem())

    def hold(self, keys: Iterable[str]) -> None:
        """Use the layers and images of keys; waits for moments while one is being removed.

        On a root that is read-only nobody removes any, and no lock can be had.
        """
        for key in keys:
            path = self._layout.use_lock(key)
            if path not in self._held:
                try:
                    self._held[path] = share(path)
                except OSError as error:
                    if error.errno != errno.EROFS:
                        raise


def touch(layout: Layout, *, layers: Iterable[str], image: str) -> None:
    """Say that an image and its layers are used now; keys of what is gone are passed over."""
    for path in (*map(layout.layer_index, layers), layout.image_index(image)):
        with contextlib.suppress(OSError):  # a disk that is read-only keeps no times
            os.utime(path)
