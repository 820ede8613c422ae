"""Objects in files: immutable, visible only whole, checked against what was promised.

    <dir>/objects/sha256_<layer>/<page>      <dir>/objects/sha256_<layer>.v1.toc     <dir>/incoming/

An object is written under `incoming/` and linked to its name, which fails if it has one. What
a crash leaves there is removed at the next start.

Not here: HTTP and tokens (`clipfs.content.objects`); eviction.
"""

import base64
import fcntl
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clipfs import errors

PAGE_BYTES = 8 << 20
MAX_INDEX_BYTES = 1 << 30
"""A layer index takes about 150 bytes an entry, and 256 bytes a MiB of payload."""

_HEX = "[0-9a-f]{64}"
_PAGE_KEY = re.compile(rf"sha256_{_HEX}(?:\.raw)?/[0-9]{{6}}")
_INDEX_KEY = re.compile(rf"sha256_{_HEX}(?:\.raw)?\.v1\.(?:toc|sparse|trace|origin\.{_HEX})")
_CONTENT_DIGEST = re.compile(rb"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):")


class Conflict(Exception):
    """The key holds other bytes already: objects are immutable."""


class DigestMismatch(Exception):
    """The bytes that came are not the ones that Content-Digest announced."""


def limit_of(key: str) -> int | None:
    """The most bytes that an object of this key may have; None if it is not a key."""
    if _PAGE_KEY.fullmatch(key):
        return PAGE_BYTES
    if _INDEX_KEY.fullmatch(key):
        return MAX_INDEX_BYTES
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An object, open: the caller closes fd."""

    fd: int
    size: int
    etag: str


class Store:
    """The objects under one folder; one server at a time owns it."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        for one in (self._objects, self._incoming):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._incoming, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise errors.InvalidInput(
                f"--dir {folder}: another content cache serves it; give this one its own"
            ) from error
        for stale in self._incoming.iterdir():
            stale.unlink()

    def find(self, key: str) -> Found | None:
        """The object of a key that limit_of knows; None if it is not here."""
        try:
            fd = os.open(self._objects / key, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        status = os.fstat(fd)
        etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        return Found(fd=fd, size=status.st_size, etag=etag)

    def receive(self, key: str, content_digest: bytes | None) -> "Incoming":
        """Begin an object; DigestMismatch if the Content-Digest header is malformed."""
        wanted = _wanted_digest(content_digest) if content_digest is not None else None
        return Incoming(self._objects / key, self._incoming, wanted)


class Incoming:
    """An object on its way; a context manager that leaves nothing unless `finish` was called."""

    def __init__(self, target: Path, folder: Path, digest: bytes | None) -> None:
        self._target = target
        self._digest = digest
        self._hash = hashlib.sha256()
        fd, name = tempfile.mkstemp(dir=folder)
        self._file, self._path = os.fdopen(fd, "wb", buffering=0), Path(name)

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def finish(self) -> bool:
        """Give the object its name; True if it is new, False if the same bytes were there.

        Raises  DigestMismatch, Conflict
        """
        if self._digest is not None and self._hash.digest() != self._digest:
            raise DigestMismatch("the bytes that came differ from Content-Digest")
        os.fdatasync(self._file.fileno())  # a name must never outlive its bytes in a power cut
        self._target.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(self._path, self._target)
        except FileExistsError:
            if _digest_of(self._target) != self._hash.digest():
                raise Conflict("the key holds other bytes; objects are immutable") from None
            return False
        return True


def _wanted_digest(header: bytes) -> bytes:
    match = _CONTENT_DIGEST.search(header)
    if match is None:
        raise DigestMismatch("Content-Digest: this server checks sha-256=:BASE64:")
    return base64.b64decode(match[1])


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
