"""One upload: written aside, checked, and given its name whole or not at all.

Its file has its full size from the beginning, so that a disk without room says so before the bytes
are sent, and uploads can be counted. It is locked as long as its process lives.

Not here: whether there is room for it (`clipfs.content.store`).
"""

import base64
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clipfs.content.folder import Folder, cost_of
from clipfs.content.keys import layer_of
from clipfs.content.ledger import Ledger

_CONTENT_DIGEST = re.compile(rb"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):")


class Refused(Exception):
    """An object is not stored or removed; the words are for the client."""


class Conflict(Refused):
    """The key holds other bytes already, and they may not be replaced."""


class PreconditionFailed(Refused):
    """If-Match names another object than the one under the key, or there is none."""

    def __init__(self) -> None:
        super().__init__("the key does not hold what If-Match names")


class BadDigest(Refused):
    """The bytes that came are not the ones that Content-Digest announced, or it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """is_new: whether the key was free."""

    is_new: bool
    etag: str


def etag_of(status: os.stat_result) -> str:
    """The ETag of an object, by its file: equal bytes have the same one on every replica."""
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


class Target:
    """The key that an object is stored under, and what it may replace there."""

    def __init__(
        self, folder: Folder, ledger: Ledger, key: str, replaces: Collection[str] | None
    ) -> None:
        """replaces: ETags of what may be replaced; None: nothing may"""
        self.folder = folder
        self._ledger = ledger
        self._path = folder.objects / key
        self._layer = folder.objects / str(layer_of(key))
        self._replaces = replaces

    def is_free(self) -> bool:
        """Whether an object may be stored here now."""
        if self._replaces is None:
            return not self._path.exists()
        try:
            return etag_of(self._path.stat()) in self._replaces
        except FileNotFoundError:
            return False

    def take(self, path: Path) -> bool | None:
        """Give the file at path the name: True if that is new, False if it replaced what stood
        there, None if it may not.
        """
        cost = cost_of(path.stat().st_size)
        return self._linked(path, cost) if self._replaces is None else self._replaced(path, cost)

    def must_hold(self, digest: bytes) -> str:
        """The ETag of the object here, if its bytes have this digest.

        Raises  FileNotFoundError if the key is free; Conflict, PreconditionFailed
        """
        try:
            with self._path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").digest() == digest:
                    return etag_of(os.fstat(file.fileno()))
        except FileNotFoundError:
            if self._replaces is None:
                raise
        if self._replaces is None:
            raise Conflict("the key holds other bytes; such an object is immutable")
        raise PreconditionFailed

    def _linked(self, path: Path, cost: int) -> bool | None:
        with self._ledger.change() as usage:
            self._use_layer()
            try:
                os.link(path, self._path)
            except FileExistsError:
                return None
            usage.bytes += cost
            path.unlink(missing_ok=True)  # under the lock, lest it be counted twice
        return True

    def _replaced(self, path: Path, cost: int) -> bool | None:
        with self._ledger.change() as usage:
            if not self.is_free():
                return None
            self._use_layer()
            old = self._path.stat()
            os.replace(path, self._path)
            usage.bytes += cost - cost_of(old.st_size)
        return False

    def _use_layer(self) -> None:
        """To be called before the object is there: it may fail."""
        self._layer.mkdir(mode=0o700, exist_ok=True)
        os.utime(self._layer)


class Incoming:
    """A context manager that leaves nothing unless `finish` was called."""

    def __init__(self, target: Target, length: int) -> None:
        """To be made under the ledger's lock. OSError if the disk has no room for length bytes."""
        self._target = target
        self._hash = hashlib.sha256()
        fd, name = tempfile.mkstemp(dir=target.folder.incoming)
        self._file, self._path = os.fdopen(fd, "r+b", buffering=0), Path(name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if length:
                os.posix_fallocate(fd, 0, length)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self, promised: bytes) -> Stored:
        """Give the object its name, unless it has it.

        promised  the sha256 that the bytes were promised to have
        Raises    BadDigest, Conflict, PreconditionFailed
        """
        digest = _checked(self._hash.digest(), promised)
        fd = self._file.fileno()
        os.utime(fd, ns=(0, _content_time_ns(digest)))
        os.fsync(fd)  # in a power cut a name must outlive neither its bytes nor its ETag
        while (is_new := self._target.take(self._path)) is None:
            try:
                return Stored(is_new=False, etag=self._target.must_hold(digest))
            except FileNotFoundError:
                continue  # it was removed meanwhile: the name is free
        return Stored(is_new=is_new, etag=etag_of(os.fstat(fd)))


class Comparison:
    """An upload for a key that is taken: it is not written, and accepted if it is the same."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        self._hash.update(data)

    def finish(self, promised: bytes) -> Stored:
        """As that of `Incoming`."""
        digest = _checked(self._hash.digest(), promised)
        try:
            return Stored(is_new=False, etag=self._target.must_hold(digest))
        except FileNotFoundError as error:
            raise Conflict("the object was removed meanwhile; store it again") from error


def _checked(digest: bytes, promised: bytes) -> bytes:
    if digest != promised:
        raise BadDigest("the bytes that came differ from Content-Digest")
    return digest


def _content_time_ns(digest: bytes) -> int:
    """An object's mtime, which says nothing of time: with the size it is the ETag."""
    return int.from_bytes(digest[:8]) % (10**9 << 30)  # any file system keeps that


def wanted_digest(header: bytes) -> bytes:
    """The sha256 that a Content-Digest header promises; BadDigest if it is missing."""
    match = _CONTENT_DIGEST.search(header)
    if match is None:
        raise BadDigest("Content-Digest: sha-256=:BASE64: of the body is needed")
    return base64.b64decode(match[1])
