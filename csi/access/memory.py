"""What the driver remembers on the node's disk: small records, the ones in use, no more.

Each is a file of its own, JSON sealed with the node's own key under its name, so that what a power
cut or a stranger left there is a miss. All of it can be had again from a registry: a disk that
refuses costs a request later, and fails nobody.

Not here: volumes and mounts, which are state (`clipfs.mount.records`).
"""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from clipfs import errors
from clipfs.layer.seal import KeyRing
from clipfs.log import log
from clipfs.system.cached import read_cached
from clipfs.system.durable import is_forsaken, write_atomically

T = TypeVar("T", bound=msgspec.Struct)
Key = tuple[str, ...]

VERSION = 1
TIDY_EVERY = 256
"""Writes between two looks at how many records there are; the first one looks, too."""

MAX_RECORD_BYTES = 1 << 16
"""An image of 127 layers, Docker's most, takes half of it; other people's may take more."""

FORGOTTEN_S = 60 * 24 * 3600
"""Without use; who left the cluster leaves no record for ever."""


class Memory(Generic[T]):
    """Records of one kind in one folder, about `most` of them: those that were used last."""

    def __init__(self, folder: Path, kind: type[T], keys: KeyRing, *, most: int) -> None:
        self._folder = folder
        self._kind = kind
        self._keys = keys
        self._most = most
        self._writes = itertools.count()
        self._void: set[str] = set()  # forgotten, though the disk would not let them go

    def read(self, key: Key) -> T | None:
        """None if it was never written, or forgotten, or is not as it was written."""
        name = _name(key)
        path = self._folder / name
        if name in self._void:
            return None
        try:
            sealed = read_cached(path)
            opened = self._opened(sealed, name) if sealed is not None else None
            if opened is not None:
                with suppress(OSError):  # a disk that is read-only keeps no times
                    os.utime(path)
        except OSError as error:
            log.warning("what is remembered cannot be read", error=str(errors.node_fault(error)))
            return None
        return opened

    def write(self, key: Key, record: T) -> None:
        """One that is too large is not kept, and no earlier one is in its stead."""
        name = _name(key)
        content = msgspec.json.encode(record)
        if len(content) > MAX_RECORD_BYTES:
            self.forget(key)
            return
        sealed = self._keys.seal(content, kind=self._folder.name, version=VERSION, name=name)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._folder / name, sealed, durable=False)
            self._void.discard(name)
            if next(self._writes) % TIDY_EVERY == 0:
                self._tidy()
        except OSError as error:
            log.warning("not remembered on the disk", error=str(errors.node_fault(error)))

    def forget(self, key: Key) -> None:
        """It is never read again, even if the disk keeps it."""
        name = _name(key)
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._void.add(name)
            log.warning("a record stays for now", error=str(errors.node_fault(error)))

    def _opened(self, sealed: bytes, name: str) -> T | None:
        opened = self._keys.open(sealed, kind=self._folder.name, version=VERSION, name=name)
        if opened is None:
            return None
        try:
            return msgspec.json.decode(opened.content, type=self._kind)
        except msgspec.DecodeError:  # another build's
            return None

    def _tidy(self) -> None:
        oldest = time.time() - FORGOTTEN_S
        for position, (used, path) in enumerate(sorted(self._files(), reverse=True)):
            if position >= self._most or used < oldest:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[float, Path]]:
        """Last use and place of each record; what never got its name goes."""
        with os.scandir(self._folder) as found:
            for one in found:
                path = Path(one.path)
                if path.suffix == ".tmp":
                    if is_forsaken(path):
                        path.unlink(missing_ok=True)
                    continue
                with suppress(FileNotFoundError):
                    yield one.stat().st_mtime, path


def _name(key: Key) -> str:
    return sha256("\0".join(key).encode()).hexdigest()
