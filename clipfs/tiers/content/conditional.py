"""Claims as objects that are written conditionally, and whether a store writes so at all.

A claim is granted to whoever creates its object, renewed and taken over by replacing just the
version that was seen. It lapses by the store's clock: the node's never counts, it only measures
how long ago the store told its own. Each renewal writes other bytes, since the ETag of the same
bytes would be the same, and a claim just renewed could be taken over by what was seen before.

Every function blocks. Not here: threads (`clipfs.tiers.content.objectstore`).
Source: Amazon S3 User Guide, "Conditional writes"; RFC 9110, 13.1.
"""

import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from clipfs.tiers.content.bucket import Bucket, Conflict, NoConditions, Odd
from clipfs.tiers.content.store import Claim, Progress

log = structlog.get_logger()

CLAIM_LAPSES_S = 15.0
"""Without a renewal; a holder that renews three times as often survives two lost ones."""

_CLOCK_TRUSTED_S = 60
"""How long a told time is carried on by the node's own counting."""

_RESOLUTION_S = 1
"""Of Last-Modified, RFC 9110: a claim may be younger by so much than it seems."""

FOLDER = "claims"
_ATTEMPTS = 5


class _Written(msgspec.Struct, frozen=True):
    """A claim as its object holds it; nonce makes each one's bytes its own."""

    holder: str
    progress: Progress
    nonce: str


class Conditions:
    """Whether the bucket's writes can depend on what stands there: found out once, by trying."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._kept: bool | None = None
        self._trying = threading.Lock()

    def are_kept(self) -> bool:
        with self._trying:
            if self._kept is None:
                self._kept = self._try()
                if not self._kept:
                    log.warning(
                        "this object store has no conditional writes: nodes that need the same "
                        "layer at the same time each download it"
                    )
            return self._kept

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


class Claims:
    """The claims in one bucket, as one process sees and holds them."""

    def __init__(self, bucket: Bucket, conditions: Conditions, *, lapses_s: float) -> None:
        self._bucket = bucket
        self._conditions = conditions
        self._lapses_s = lapses_s
        self._held: dict[tuple[str, str], str] = {}  # key and holder: the version we wrote
        self._clock: tuple[datetime, float] | None = None

    def holds(self, key: str, holder: str) -> bool:
        """Whether holder has claimed key here, and not heard since that it lost it."""
        return (key, holder) in self._held

    def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        """Whose the claim is now: holder's if it is free, lapsed, or was holder's.

        Raises  NoConditions: this store can keep none; else what the bucket raises
        """
        if not self._conditions.are_kept():
            raise NoConditions("this object store can keep no claims")
        for _ in range(_ATTEMPTS):
            version = self._held.pop((key, holder), None)
            try:
                self._write(key, holder, progress, version)
            except Conflict:
                other = self._other(key, holder, progress)
                if other is None:
                    continue
                return other
            return Claim(holder, progress, self._lapses_s)
        raise Odd(f"the claim of {key} changes hands faster than it can be read")

    def release(self, key: str, holder: str) -> None:
        """Give the claim up, if it is holder's.

        It is renewed first: nobody takes it over then, between the look at it and its removal.
        """
        version = self._held.pop((key, holder), None)
        if version is None:
            return
        try:
            self._write(key, holder, Progress(), version)
        except Conflict:
            return
        del self._held[key, holder]
        self._bucket.remove(_name(key))

    def _other(self, key: str, holder: str, progress: Progress) -> Claim | None:
        """The claim that stands, as long as it does; None once holder should try again."""
        standing = self._bucket.get(_name(key))
        if standing is None:
            return None
        written = _read(standing.data)
        left_s = self._lapses_s + _RESOLUTION_S - (self._now() - standing.modified).total_seconds()
        if written.holder != holder and left_s > 0:
            return Claim(written.holder, written.progress, min(left_s, self._lapses_s))
        self._held[key, holder] = standing.version  # the next attempt replaces just this one
        return None

    def _write(self, key: str, holder: str, progress: Progress, version: str | None) -> None:
        nonce = secrets.token_hex(8)
        data = msgspec.json.encode(_Written(holder, progress, nonce))
        if version is None:
            written = self._bucket.create(_name(key), data)
        else:
            written = self._bucket.update(_name(key), data, version)
        self._held[key, holder] = written

    def _now(self) -> datetime:
        """The store's time, or a little before it."""
        if self._clock is not None:
            told, at = self._clock
            passed_s = time.monotonic() - at
            if passed_s < _CLOCK_TRUSTED_S:
                return told + timedelta(seconds=passed_s)
        now = store_time(self._bucket)
        self._clock = now, time.monotonic()
        return now


def store_time(bucket: Bucket) -> datetime:
    """The store's time, or a little before it: that of an object written now."""
    key = f"{FOLDER}/clock-{secrets.token_hex(8)}"
    bucket.overwrite(key, b"now")
    try:
        standing = bucket.get(key)
    finally:
        bucket.remove(key)
    if standing is None:
        raise Odd("what was just written is not there")
    return standing.modified


def _name(key: str) -> str:
    return f"{FOLDER}/{key}"


def _read(data: bytearray) -> _Written:
    """Nobody's, if it is none: it lapses like any other."""
    try:
        return msgspec.json.decode(data, type=_Written)
    except msgspec.DecodeError:
        return _Written("", Progress(), "")
