"""Claims in an object store, as objects that are written conditionally.

A claim is granted to whoever creates its object, renewed and taken over by replacing just the
version that was seen. It lapses by the store's clock: the node's never counts, it only measures
how long ago the store told its own. Each renewal writes other bytes, since the ETag of the same
bytes would be the same, and a claim just renewed could be taken over by what was seen before.

Blocks. Not here: threads (`clipfs.tiers.content.objectstore`).
"""

import secrets
import time
from datetime import datetime, timedelta

import msgspec

from clipfs.tiers.content.bucket import FOLDER, Bucket, Conflict, NoConditions, Odd, Standing
from clipfs.tiers.content.conditional import Conditions
from clipfs.tiers.content.store import Claim, Progress

CLAIM_LAPSES_S = 15.0
"""Without a renewal; a holder that renews three times as often survives two lost ones."""

_CLOCK_TRUSTED_S = 60
"""How long a told time is carried on by the node's own counting."""

_RESOLUTION_S = 1
"""Of Last-Modified, RFC 9110: a claim may be younger by so much than it seems."""

_ATTEMPTS = 5


class _Written(msgspec.Struct, frozen=True):
    """A claim as its object holds it; nonce makes each one's bytes its own."""

    holder: str
    progress: Progress
    nonce: str


class Claims:
    """The claims in one bucket, as one process sees and holds them.

    The first question for a claim, for whose answer a mount waits, is one request or two: the
    store's conditions and clock are looked into when the same is asked again.
    """

    def __init__(self, bucket: Bucket, conditions: Conditions, *, lapses_s: float) -> None:
        self._bucket = bucket
        self._conditions = conditions
        self._lapses_s = lapses_s
        self._asked: set[tuple[str, str]] = set()  # key and holder
        self._held: dict[tuple[str, str], str] = {}  # the same: the version we wrote
        self._clock: tuple[datetime, float] | None = None

    def asked(self, key: str, holder: str) -> bool:
        """Whether holder has asked for key before."""
        return (key, holder) in self._asked

    def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        """Whose the claim is now: holder's if it is free, lapsed, or was holder's.

        Raises  NoConditions: this store can keep none; else what the bucket raises
        """
        again = self.asked(key, holder)
        if self._conditions.are_missing or (again and not self._conditions.are_kept()):
            raise NoConditions("this object store can keep no claims")
        for _ in range(_ATTEMPTS):
            version = self._held.pop((key, holder), None)
            try:
                self._write(key, holder, progress, version)
            except NoConditions:
                self._conditions.were_refused()
                raise NoConditions("this object store can keep no claims") from None
            except Conflict:
                other = self._other(key, holder, again=again)
                if other is None:
                    continue
                self._asked.add((key, holder))
                return other
            self._asked.add((key, holder))
            return Claim(holder, progress)
        raise Odd(f"the claim of {key} changes hands faster than it can be read")

    def look(self, key: str, holder: str) -> Claim | None:
        """The claim that stands now; holder's own, if the store has yet to say that it is."""
        standing = self._bucket.get(_name(key))
        if standing is None:
            return None
        written = _read(standing.data)
        if written.holder == holder:
            self._held[key, holder] = standing.version
        self._asked.add((key, holder))
        return Claim(written.holder, written.progress)

    def release(self, key: str, holder: str) -> None:
        """Give the claim up, if it is holder's.

        It is renewed first: nobody takes it over then, between the look at it and its removal.
        """
        self._asked.discard((key, holder))
        version = self._held.pop((key, holder), None)
        if version is None:
            return
        try:
            self._write(key, holder, Progress(), version)
        except Conflict:
            return
        del self._held[key, holder]
        self._bucket.remove(_name(key))

    def _other(self, key: str, holder: str, *, again: bool) -> Claim | None:
        """The claim that stands, as long as it does; None once holder should try again."""
        standing = self._bucket.get(_name(key))
        if standing is None:
            return None
        written = _read(standing.data)
        if written.holder != holder and not (again and self._has_lapsed(standing)):
            return Claim(written.holder, written.progress)
        self._held[key, holder] = standing.version  # the next attempt replaces just this one
        return None

    def _has_lapsed(self, standing: Standing) -> bool:
        age_s = (self._now() - standing.modified).total_seconds() - _RESOLUTION_S
        return age_s >= self._lapses_s

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
