"""Seals: an HMAC over kind, version, key and content, so that derived data cannot be forged.

A sealed object is `MAGIC | tag (32 bytes) | content`. The first key of a ring signs, every
key verifies. A wrong seal is a miss, never an error: whoever holds the content cache may have
written anything there.

Source: RFC 2104 (HMAC), with SHA-256.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clipfs import errors
from clipfs.system.durable import create_atomically

MAGIC = b"CLIPSEAL"
TAG_BYTES = hashlib.sha256().digest_size
OWN_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sealed object that verified; `renew` if an older key had signed it."""

    content: bytes
    renew: bool


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Signing keys, the first one in use. Never printed."""

    keys: tuple[bytes, ...]

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """One key a line, its bytes; InvalidInput if the file cannot be read or holds none."""
        try:
            keys = tuple(line for line in path.read_bytes().splitlines() if line)
        except OSError as error:
            raise errors.InvalidInput(
                f"index key file {path}: {error.strerror}; name a file with one key a line"
            ) from error
        if not keys:
            raise errors.InvalidInput(f"index key file {path} holds no key; one key a line")
        return cls(keys)

    @classmethod
    def own(cls, path: Path) -> Self:
        """The node's own key, made at the first call; two first calls agree on one."""
        if not path.exists():
            create_atomically(path, secrets.token_hex(OWN_KEY_BYTES).encode() + b"\n")
        return cls.from_file(path)

    def seal(self, content: bytes, *, kind: str, version: int, name: str) -> bytes:
        return MAGIC + _tag(self.keys[0], content, kind, version, name) + content

    def open(
        self, sealed: bytes | bytearray, *, kind: str, version: int, name: str
    ) -> Opened | None:
        """The content, if one of the keys signed it under just this kind, version and name."""
        start = len(MAGIC) + TAG_BYTES
        if len(sealed) < start or not sealed.startswith(MAGIC):
            return None
        tag, content = sealed[len(MAGIC) : start], memoryview(sealed)[start:]
        for position, key in enumerate(self.keys):
            if hmac.compare_digest(tag, _tag(key, content, kind, version, name)):
                return Opened(content=bytes(content), renew=position > 0)
        return None


def _tag(key: bytes, content: bytes | memoryview, kind: str, version: int, name: str) -> bytes:
    header = f"{kind}\0{version}\0{name}\0".encode()
    made = hmac.new(key, header, "sha256")
    made.update(content)  # where it lies: nothing is copied that may be forged
    return made.digest()
