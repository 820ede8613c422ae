"""Objects in files: visible only when whole and checked, bounded together.

An object is written under `incoming/` and linked to its name, which fails if that is taken. What
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
from clipfs.content.ledger import Ledger, Usage

WAIT_S = 0.02
"""Between two checks whether another process or task has made room."""


class NoRoom(Refused):
    """All layers are in use: none may be evicted for the object."""


class NeverFits(Refused):
    """The object alone is larger than the limit for all."""


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
        """Own the folder, remove what a crash left half done, and count what is there.

        max_bytes  what all objects together may take; None: no limit
        Raises     InvalidInput if another server owns it; OSError
        """
        folder = Folder.own(path)
        folder.remove_abandoned()
        folder.add_layer_folders()
        store = cls(folder, max_bytes)
        store._ledger.recount()
        folder.remove_evicted()
        return store

    @classmethod
    def attach(cls, path: Path, *, max_bytes: int | None = None) -> "Store":
        """The same folder, in a worker process of its owner."""
        store = cls(Folder.join(path), max_bytes)
        if store._evictor is not None and max_bytes is not None and store.usage().bytes > max_bytes:
            store._evictor.start()  # not by the owner: it forks, and must hold no lock meanwhile
        return store

    def close(self) -> None:
        """Stop an eviction that is going on, behind the layer at hand."""
        if self._evictor is not None:
            self._evictor.stop()

    def usage(self) -> Usage:
        """What all objects cost, and how many layers were evicted; by all processes."""
        return self._ledger.read()

    def find(self, key: str) -> Found | None:
        """The object of a key that limit_of knows; None if there is none. It counts as a use."""
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
        """Begin to store an object of length bytes; room is made for it.

        replaces  ETags of what it may replace; None: nothing
        Raises    NeverFits, NoRoom; OSError if the disk is full
        """
        target = Target(self._folder, self._ledger, key, replaces)
        if not target.is_free():
            touch(f"{self._objects}/{layer_of(key)}")
            return Comparison(target)
        if self._max_bytes is not None and cost_of(length) > self._max_bytes:
            raise NeverFits(f"larger than the limit for all objects, {self._max_bytes} bytes")
        made = False
        while True:
            with self._ledger.locked() as usage:
                incoming = Incoming(target, length) if self._has_room(usage, length) else None
            if incoming is None:
                made = self._make_room(length) or made
                continue
            if made and self._evictor is not None:
                self._evictor.start()
            return incoming

    def delete(self, key: str, etags: Collection[str]) -> None:
        """Remove the object if one of etags is its own.

        Raises  FileNotFoundError if there is none; PreconditionFailed
        """
        path = self._folder.objects / key
        with self._ledger.change() as usage:
            status = path.stat()
            if etag_of(status) not in etags:
                raise PreconditionFailed
            path.unlink()
            usage.bytes -= cost_of(status.st_size)

    def remove_abandoned(self) -> None:
        """Remove what a worker process that has died was receiving."""
        with self._ledger.locked():
            self._folder.remove_abandoned()

    def _make_room(self, length: int) -> bool:
        """Whether layers were evicted for it; False: another one evicts, look again."""

        def is_made() -> bool:
            with self._ledger.locked() as usage:
                return self._has_room(usage, length)

        made = self._evictor.evict(until=is_made) if self._evictor is not None else False
        if made is None:
            time.sleep(WAIT_S)
            return False
        if not made:
            raise NoRoom("the cache is full, and all its layers have just been used")
        return True

    def _has_room(self, usage: Usage, length: int) -> bool:
        """To be called under the ledger's lock."""
        if self._max_bytes is None:
            return True
        free = self._max_bytes - usage.bytes - cost_of(length)
        if free >= self._folder.transit_bytes():
            return True
        self._folder.remove_abandoned()
        return free >= self._folder.transit_bytes()
