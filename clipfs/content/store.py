"""Objects in files: visible only whole, checked against what was promised, bounded together.

An object is written under `incoming/` and linked to its name, which fails if it has one. What
a crash leaves there is removed at the next start.

Not here: HTTP and tokens (`clipfs.content.objects`); which layers go (`clipfs.content.eviction`).
"""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from clipfs.content.claims import Claims
from clipfs.content.eviction import Evictor, touch
from clipfs.content.folder import Folder, cost_of
from clipfs.content.incoming import (
    Comparison,
    Incoming,
    PreconditionFailed,
    Refused,
    Target,
    etag_of,
)
from clipfs.content.keys import layer_of
from clipfs.content.ledger import Kept, Ledger

WAIT_S = 0.02
"""Between two looks at whether another process or task has made room."""


class NoRoom(Refused):
    """All that is kept is in use: nothing may go for what comes."""


class NeverFits(Refused):
    """The object alone is more than may be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An object, open: the caller closes fd."""

    fd: int
    size: int
    etag: str


class Store:
    """The objects and claims under one folder; open it with `Store.open` or `Store.attach`.

    id  the replica's: made once, the same for as long as the folder is
    """

    def __init__(self, folder: Folder, max_bytes: int | None) -> None:
        self._folder = folder
        self._objects = str(folder.objects)
        self._max_bytes = max_bytes
        self._ledger = Ledger(folder.kept, folder.kept_bytes)
        self._evictor = Evictor(folder, self._ledger, max_bytes) if max_bytes is not None else None
        self.claims = Claims(folder.claims)
        self.id = folder.id()

    @classmethod
    def open(cls, path: Path, *, max_bytes: int | None = None) -> "Store":
        """Own the folder, end what a crash left half done, and count what is there.

        max_bytes  what all objects together may take; None: no limit
        Raises     InvalidInput if another server owns it; OSError
        """
        folder = Folder.own(path)
        folder.forget_forsaken()
        folder.complete()
        store = cls(folder, max_bytes)
        store._ledger.count_anew()
        folder.forget_evicted()
        return store

    @classmethod
    def attach(cls, path: Path, *, max_bytes: int | None = None) -> "Store":
        """The same folder, in a worker process of its owner."""
        store = cls(Folder.join(path), max_bytes)
        if store._evictor is not None and max_bytes is not None and store.kept().bytes > max_bytes:
            store._evictor.begin()  # not by the owner: it forks, and must hold no lock meanwhile
        return store

    def close(self) -> None:
        """Let the process end soon, though an eviction is going on."""
        if self._evictor is not None:
            self._evictor.end()

    def kept(self) -> Kept:
        """How much is kept, and how many layers had to go; by all processes."""
        return self._ledger.read()

    def find(self, key: str) -> Found | None:
        """The object of a key that limit_of knows, which is used thereby; None if not here."""
        path = f"{self._objects}/{key}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        status = os.fstat(fd)
        touch(f"{self._objects}/{layer_of(key)}")
        return Found(fd=fd, size=status.st_size, etag=etag_of(status))

    def receive(
        self, key: str, length: int, *, replaces: Collection[str] | None
    ) -> Incoming | Comparison:
        """Begin an object of length bytes; room for it is made.

        replaces  ETags of what it may replace; None: nothing
        Raises    NeverFits, NoRoom; OSError if the disk is full
        """
        target = Target(self._folder, self._ledger, key, replaces)
        if not target.is_free():
            touch(f"{self._objects}/{layer_of(key)}")
            return Comparison(target)
        if self._max_bytes is not None and cost_of(length) > self._max_bytes:
            raise NeverFits(f"more than all that is kept, {self._max_bytes} bytes")
        made = False
        while True:
            with self._ledger.locked() as kept:
                incoming = Incoming(target, length) if self._has_room(kept, length) else None
            if incoming is None:
                made = self._make_room(length) or made
                continue
            if made and self._evictor is not None:
                self._evictor.begin()
            return incoming

    def delete(self, key: str, etags: Collection[str]) -> None:
        """Remove the object if one of etags is its own.

        Raises  FileNotFoundError if there is none; PreconditionFailed
        """
        path = self._folder.objects / key
        with self._ledger.change() as kept:
            status = path.stat()
            if etag_of(status) not in etags:
                raise PreconditionFailed
            path.unlink()
            kept.bytes -= cost_of(status.st_size)

    def forget_forsaken(self) -> None:
        """Remove what a worker process that is no more was receiving."""
        with self._ledger.locked():
            self._folder.forget_forsaken()

    def _make_room(self, length: int) -> bool:
        """Whether layers went for it; False: others are making room, look again."""

        def is_made() -> bool:
            with self._ledger.locked() as kept:
                return self._has_room(kept, length)

        made = self._evictor.evict(until=is_made) if self._evictor is not None else False
        if made is None:
            time.sleep(WAIT_S)
            return False
        if not made:
            raise NoRoom("the cache is full, and all that it keeps has just been used")
        return True

    def _has_room(self, kept: Kept, length: int) -> bool:
        """To be asked under the ledger's lock."""
        if self._max_bytes is None:
            return True
        free = self._max_bytes - kept.bytes - cost_of(length)
        if free >= self._folder.passing_bytes():
            return True
        self._folder.forget_forsaken()
        return free >= self._folder.passing_bytes()
