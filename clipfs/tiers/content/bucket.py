"""What a bucket of an object store can do, and what it raises: few calls, all of them blocking.

Two kinds: in this process (`clipfs.tiers.content.obstore_bucket`), or in one of its own
(`clipfs.tiers.content.bucket_process`). Versions are opaque here: an ETag, a generation or both.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

TRANSFER_TIMEOUT_S = 30
"""Of one request, whatever its size."""

FOLDER = "claims"
"""Of what is no layer's: claims, and objects that are written to be looked at and removed."""


class NoAnswer(Exception):
    """None that can be used: no connection, too late, a fault of the store, wrong credentials."""


class NoBucket(NoAnswer):
    """The store says that there is no such bucket."""


class Odd(Exception):
    """The store answers, but not what was asked for; another request may fare better."""


class NotAllowed(Exception):
    """The store knows who asks, and refuses."""


class Absent(Exception):
    """Nothing stands under the key."""


class Beyond(Exception):
    """The object ends before the part that was asked for begins."""


class Conflict(Exception):
    """What stands under the key is not what the write was made for."""


class NoConditions(Exception):
    """The store refuses writes that depend on what stands under the key."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands under a key; version names it, `modified` is by the store's clock."""

    data: bytearray
    version: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """An object by its name, without its bytes."""

    key: str
    bytes: int
    modified: datetime


class Bucket(Protocol):
    """One bucket below one prefix. Safe to use from many threads at once.

    Each raises  NoAnswer; NotAllowed; Odd
    """

    def ready(self) -> None:
        """Return once it can be asked. Raises InvalidInput: there can be no such bucket."""

    def check(self) -> None:
        """Return if the store answers and has the bucket; NoBucket if it says that it has not."""

    def get(self, key: str, *, part: range | None = None) -> Standing | None:
        """The object, or of the bytes of part those that it has; None if there is none."""

    def version(self, key: str) -> str | None:
        """What stands under key, by name; None if nothing does."""

    def create(self, key: str, data: bytes | memoryview) -> str:
        """Store what was not there; its version. Raises Conflict; NoConditions as well."""

    def update(self, key: str, data: bytes | memoryview, version: str) -> str:
        """Replace just this version; the new one. Raises Conflict; NoConditions as well."""

    def overwrite(self, key: str, data: bytes | memoryview) -> str:
        """Store it, whatever stands there; its version."""

    def remove(self, key: str) -> None:
        """Remove what stands under key, if anything does."""
