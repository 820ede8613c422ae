"""One object on its way in: written aside, checked, given its name at once or never.

Its file has its full size from the beginning: so a disk without room says so before the bytes
are sent, and what is on its way can be counted. It is locked as long as its process lives.

Not here: whether there is room for it (`clipfs.content.store`).
"""

import base64
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

from clipfs.content.folder import Folder, cost_of
from clipfs.content.ledger import Ledger

_CONTENT_DIGEST = re.compile(rb"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):")


class Conflict(Exception):
    """The key holds other bytes already, and they may not be replaced."""


class ConditionFailed(Exception):
    """What stands under the key is not what If-Match names."""


class DigestMismatch(Exception):
    """The bytes that came are not the ones that Content-Digest announced."""


def etag_of(status: os.stat_result) -> str:
    """The ETag of an object, by its file: equal bytes have the same one on every replica."""
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


class Incoming:
    """A context manager that leaves nothing unless `finish` was called."""

    def __init__(
        self, folder: Folder, ledger: Ledger, target: Path, layer: Path, length: int
    ) -> None:
        """To be made under the ledger's lock. OSError if the disk has no room for length bytes.

        layer  the folder whose mtime is the layer's last use
        """
        self._ledger = ledger
        self._target = target
        self._layer = layer
        self._hash = hashlib.sha256()
        fd, name = tempfile.mkstemp(dir=folder.incoming)
        self._file, self._path = os.fdopen(fd, "r+b", buffering=0), Path(name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if length:
                os.posix_fallocate(fd, 0, length)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, digest: bytes | None, *, replaces: Collection[str] | None) -> bool:
        """Give the object its name; True if it is new, False if it was there, or replaced one.

        digest    sha256 that the bytes were promised to have
        replaces  ETags of what it may replace; None: nothing
        Raises    DigestMismatch, Conflict, ConditionFailed
        """
        if digest is not None and self._hash.digest() != digest:
            raise DigestMismatch("the bytes that came differ from Content-Digest")
        os.utime(self._file.fileno(), ns=(0, self._content_time_ns()))
        os.fdatasync(self._file.fileno())  # a name must never outlive its bytes in a power cut
        while True:
            if replaces is not None and self._replaced(replaces):
                return False
            if replaces is None and self._linked():
                return True
            try:
                if _digest_of(self._target) == self._hash.digest():
                    return False
            except FileNotFoundError:
                if replaces is None:
                    continue  # it was removed meanwhile: the name is free
            if replaces is None:
                raise Conflict("the key holds other bytes; such an object is immutable")
            raise ConditionFailed("what stands under the key is not what If-Match names")

    @property
    def etag(self) -> str:
        """The object's, once it is finished."""
        return etag_of(os.fstat(self._file.fileno()))

    def _content_time_ns(self) -> int:
        """The file's mtime, which says nothing of time: with its size it is the object's ETag."""
        return int.from_bytes(self._hash.digest()[:8]) % (10**9 << 30)  # any file system keeps that

    def _linked(self) -> bool:
        with self._ledger.change() as kept:
            self._layer.mkdir(mode=0o700, exist_ok=True)
            try:
                os.link(self._path, self._target)
            except FileExistsError:
                return False
            finally:
                os.utime(self._layer)
            kept.bytes += self._cost()
            self._path.unlink(missing_ok=True)  # under the lock, lest it be counted twice
        return True

    def _replaced(self, etags: Collection[str]) -> bool:
        with self._ledger.change() as kept:
            try:
                old = self._target.stat()
            except FileNotFoundError:
                return False
            if etag_of(old) not in etags:
                return False
            os.replace(self._path, self._target)
            kept.bytes += self._cost() - cost_of(old.st_size)
        return True

    def _cost(self) -> int:
        return cost_of(os.fstat(self._file.fileno()).st_size)


def wanted_digest(header: bytes) -> bytes:
    """The sha256 that a Content-Digest header promises; DigestMismatch if there is none."""
    match = _CONTENT_DIGEST.search(header)
    if match is None:
        raise DigestMismatch("Content-Digest: this server checks sha-256=:BASE64:")
    return base64.b64decode(match[1])


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
