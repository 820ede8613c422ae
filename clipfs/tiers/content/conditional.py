"""Writes that depend on what stands under a key, and whether a store knows such writes at all.

Blocks. Not here: threads (`clipfs.tiers.content.objectstore`); claims
(`clipfs.tiers.content.claims`).
Source: Amazon S3 User Guide, "Conditional writes"; RFC 9110, 13.1.
"""

import secrets
import threading
from collections.abc import Callable

from clipfs.log import log
from clipfs.tiers.content.bucket import FOLDER, Bucket, Conflict, NoConditions
from clipfs.tiers.content.store import ContentCacheDown, ContentRefused

_ATTEMPTS = 3
"""Of a write that meets an object which is gone when it is looked at."""


class Conditions:
    """Whether the bucket's writes can depend on what stands there: found out once, by trying."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._kept: bool | None = None
        self._trying = threading.Lock()

    @property
    def are_missing(self) -> bool:
        """Whether that has been found out; asks nobody."""
        return self._kept is False

    def are_kept(self) -> bool:
        with self._trying:
            if self._kept is None:
                self._found(self._try())
            return bool(self._kept)

    def were_refused(self) -> None:
        """Say that the store has refused a write for being conditional."""
        with self._trying:
            self._found(False)

    def put(self, key: str, data: bytes | memoryview, replaces: str | None) -> None:
        """Store an object where nothing stands, or in the stead of the version that replaces names.

        Raises  ContentRefused: something else stands there; else what the bucket raises
        """
        for _ in range(_ATTEMPTS):
            try:
                self._put_if(key, data, replaces)
                return
            except Conflict:
                standing = self._bucket.get(key)
            if standing is not None and bytes(standing.data) == bytes(data):
                return
            if standing is not None or replaces is not None:
                raise ContentRefused(f"PUT {key}: something else is stored there")
        raise ContentCacheDown(f"PUT {key}: what is stored there comes and goes")

    def _put_if(self, key: str, data: bytes | memoryview, replaces: str | None) -> None:
        if not self.are_kept():
            if self._bucket.version(key) != replaces:
                raise Conflict(key)
            self._bucket.overwrite(key, data)
        elif replaces is None:
            self._bucket.create(key, data)
        else:
            self._bucket.update(key, data, replaces)

    def _found(self, kept: bool) -> None:
        if not kept and not self.are_missing:
            log.warning(
                "this object store has no conditional writes: nodes that need the same layer at "
                "the same time each download it"
            )
        self._kept = kept

    def _try(self) -> bool:
        """Write what must be refused, beside what must not."""
        key = f"{FOLDER}/trial-{secrets.token_hex(8)}"
        try:
            first = self._bucket.create(key, b"1")
            self._bucket.update(key, b"2", first)
            return _is_refused(lambda: self._bucket.create(key, b"3")) and _is_refused(
                lambda: self._bucket.update(key, b"4", first)
            )
        except (NoConditions, Conflict):
            return False
        finally:
            self._bucket.remove(key)


def _is_refused(write: Callable[[], object]) -> bool:
    try:
        write()
    except Conflict:
        return True
    return False
