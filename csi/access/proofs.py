"""Proofs of access: this registry let these credentials have this manifest, at that time.

One is good for a minute, in memory, and after that only if the registry cannot be asked: then it
is good for as long as the administrator says. It is on the disk for that, without the credentials
and without a name of theirs: an HMAC by the node's own key stands for them. A refusal takes
back what was proved before.

Not here: asking (`clipfs.image.registry`); what becomes of an answer (`csi.access.admission`).
"""

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clipfs.image.credentials import Credentials
from clipfs.image.digest import Digest
from clipfs.image.reference import Reference
from clipfs.layer.seal import KeyRing
from csi.access.memory import Memory

FRESH_S = 60
"""How soon a right that was taken away is noticed; ten pods of one image are one question."""

MOST_DIGESTS = 256
"""Of one repository and caller: the latest ones."""

MOST_CALLERS = 4096
"""On the disk, each with one repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """now_s: seconds that never go back, in one process; wall_s: since the epoch, on one node."""

    now_s: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks for what: a repository, and a mark of the credentials that apply to it."""

    registry: str
    repository: str
    mark: str


class _Proved(msgspec.Struct, frozen=True):
    """By digest: when it was proved, in seconds since the epoch."""

    at_s: dict[str, float]


class Proofs:
    """Those of one node; many threads may ask at the same time."""

    def __init__(self, folder: Path, keys: KeyRing, clock: Clock) -> None:
        self._clock = clock
        self._fresh: dict[tuple[Caller, Digest], float] = {}  # until when
        self._kept = Memory(folder, _Proved, keys, most=MOST_CALLERS)
        self._guard = threading.Lock()

    def is_fresh(self, caller: Caller, digest: Digest) -> bool:
        """Whether it was proved within the last FRESH_S."""
        return self._fresh.get((caller, digest), 0) > self._clock.now_s()

    def is_within(self, grace_s: float, caller: Caller, digest: Digest) -> bool:
        """Whether it was proved within grace_s, in this driver's life or before."""
        kept = self._kept.read(_key(caller))
        at_s = kept.at_s.get(digest) if kept is not None else None
        if at_s is None:
            return False
        return 0 <= self._clock.wall_s() - at_s < grace_s  # a clock that went back proves nothing

    def add(self, caller: Caller, digest: Digest) -> None:
        with self._guard:
            now_s = self._clock.now_s()
            if len(self._fresh) >= MOST_CALLERS:
                self._fresh = {one: until for one, until in self._fresh.items() if until > now_s}
            self._fresh[caller, digest] = now_s + FRESH_S
            kept = self._kept.read(_key(caller))
            at_s = {**(kept.at_s if kept else {}), digest: self._clock.wall_s()}
            latest = sorted(at_s, key=lambda one: at_s[one], reverse=True)[:MOST_DIGESTS]
            self._kept.write(_key(caller), _Proved({one: at_s[one] for one in latest}))

    def take_back(self, caller: Caller, digest: Digest) -> None:
        """The repository has no such manifest any more."""
        with self._guard:
            self._fresh.pop((caller, digest), None)
            kept = self._kept.read(_key(caller))
            if kept is not None and digest in kept.at_s:
                left = {one: at_s for one, at_s in kept.at_s.items() if one != digest}
                self._kept.forget(_key(caller))  # a disk that refuses to write keeps none
                self._kept.write(_key(caller), _Proved(left))

    def take_back_all(self, caller: Caller) -> None:
        """The registry does not let the caller read the repository any more."""
        with self._guard:
            self._fresh = {one: until for one, until in self._fresh.items() if one[0] != caller}
            self._kept.forget(_key(caller))


def caller_of(
    keys: KeyRing, reference: Reference, credentials: Mapping[str, Credentials | None]
) -> Caller:
    """Who asks for reference.

    credentials  by host, all that may be shown: others are another caller
    """
    shown = [
        (host, (one.username, one.password, one.identity_token) if one else "anonymous")
        for host, one in sorted(credentials.items())
    ]
    content = b"clip-csi credentials\0" + msgspec.json.encode(shown)
    return Caller(
        registry=reference.registry,
        repository=reference.repository,
        mark=hmac.new(keys.keys[0], content, "sha256").hexdigest(),
    )


def _key(caller: Caller) -> tuple[str, str, str]:
    return caller.registry, caller.repository, caller.mark
