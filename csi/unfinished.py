"""Volumes whose publish has not succeeded yet, by their targets: the kubelet calls again.

What a tag was found to be is pinned while the work goes on. The kubelet does not say that it has
given a volume up which it never got, so of too many those are forgotten that it called for longest
ago.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipfs.image.digest import Digest
from csi.volume import Volume

MOST = 1000
"""A node runs 110 pods by default."""


@dataclass(slots=True)
class _One:
    volume: Volume
    pinned: Digest | None = None


class Unfinished:
    """Any thread may ask."""

    def __init__(self, on_forgotten: Callable[[Path], None]) -> None:
        """on_forgotten  is told the target of each that nobody has ended"""
        self._on_forgotten = on_forgotten
        self._guard = threading.Lock()
        self._by_target: OrderedDict[Path, _One] = OrderedDict()

    def begin(self, volume: Volume) -> Digest | None:
        """A publish begins, perhaps again; what its tag is pinned to."""
        with self._guard:
            one = self._by_target.setdefault(volume.target, _One(volume))
            self._by_target.move_to_end(volume.target)
            if one.volume.attributes != volume.attributes:
                one.pinned = None
            one.volume = volume
            pinned = one.pinned
            too_many = len(self._by_target) > MOST
            forgotten = self._by_target.popitem(last=False)[0] if too_many else None
        if forgotten is not None:
            self._on_forgotten(forgotten)
        return pinned

    def pin(self, target: Path, digest: Digest | None) -> None:
        """What the tag is to be when the call comes again; None: whatever it is then."""
        with self._guard:
            if target in self._by_target:
                self._by_target[target].pinned = digest

    def end(self, target: Path) -> Volume | None:
        """The volume is there, or is gone: what is forgotten."""
        with self._guard:
            one = self._by_target.pop(target, None)
            return one.volume if one is not None else None
