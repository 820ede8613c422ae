"""The ClipMounts of a node: which is to be written next, and when. Decides, writes nothing.

A change of phase is written at once, or nearly so: what changes again within SETTLE_S is one
write. Counters are looked at every COUNTERS_S at the soonest, and written only if they have
changed; who writes reads them, since that may take a while. Of a volume there is only the
latest: what could not be written is not caught up with.

Every write is one request. A ClipMount that an earlier driver may have written is looked at
first, so that a driver that starts anew writes nothing anew.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from csi.status.bucket import Bucket
from csi.status.clip_mount import READABLE, Counts, State, changed, grown, news, status_fields
from csi.status.reporter import Mounted, Subject
from csi.status.turns import Key, Turns

SETTLE_S = 0.5
COUNTERS_S = 300
"""At the soonest; up to half as much again, so that mounts that began together drift apart."""

BURST, EVERY_S = 60, 1
"""Of all ClipMounts of a node: 60 requests a minute."""

FORGET_S = 3_600
"""A volume that was never mounted may never be unpublished: so long after it was wanted last."""

Step = Literal["count", "look", "make", "status", "delete"]
Figures = Callable[[str], Mounted | None]
"""The counters of the image with this digest, as they are now; None: it is not mounted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountWrite:
    """One request; or, to count, a look at the counters, and no request."""

    step: Step
    state: State


@dataclass(slots=True, kw_only=True)
class _Mount:
    """One volume.

    written      what the API has; None: nobody knows
    exists       whether the API has it; None: nobody knows
    counters_at  when to look at the counters again
    counts       at which the counters stood when they were added to the state's last
    """

    state: State
    told_at: float
    written: State | None = None
    exists: bool | None = False
    counters_at: float = 0.0
    counts: Counts = field(default_factory=dict)
    is_gone: bool = False


class Mounts:
    """Of one node. Times are monotonic seconds (`now`) and RFC 3339 (`time`)."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        """jitter  a number from 0 to 1, another one each time"""
        self._jitter = jitter
        self._mounts: dict[Key, _Mount] = {}
        self._turns = Turns()
        self._counters: list[tuple[float, Key]] = []  # a heap; what a mount does not say is stale
        self._bucket = Bucket(burst=BURST, every_s=EVERY_S)

    def phase(self, subject: Subject) -> str:
        """The one that was told last; empty if nothing is known."""
        mount = self._mounts.get(subject.key)
        return "" if mount is None or mount.is_gone else mount.state.phase

    def change(self, subject: Subject, now: float, time: str, **fields: Any) -> None:
        """Fields of the subject's state become these."""
        mount = self._mounts.get(subject.key)
        if mount is None or mount.is_gone:
            mount = self._new(subject, now, time)
            self._turns.add_news(subject, now + SETTLE_S)
        before, mount.told_at = mount.state, now
        figures: Mounted | None = fields.pop("figures", None)
        mount.state = changed(before, time, **fields)
        if figures is not None:
            _add(mount, figures)
        if news(mount.state) != news(before):
            self._turns.add_news(subject, now + SETTLE_S)

    def adopt(self, subject: Subject, digest: str, now: float, time: str) -> None:
        """It is mounted since an earlier driver's time: it is looked at some time soon."""
        mount = self._new(subject, now, time)
        mount.state = replace(mount.state, phase="Mounted", digest=digest)
        mount.exists = None
        self._look_at_counters(mount, now + COUNTERS_S * self._jitter())

    def gone(self, subject: Subject, now: float, time: str) -> None:
        mount = self._mounts.get(subject.key)
        if mount is None:  # of an earlier driver, or forgotten
            mount = self._new(subject, now, time)
            mount.exists = None
        if mount.exists is False:
            self._forget(subject.key)
            return
        mount.is_gone = True
        self._turns.remove(subject)
        self._turns.add_news(subject, now)

    def next(self, now: float) -> MountWrite | None:
        """What may be done now."""
        may_ask = not self._bucket.wait_s(now)
        if may_ask and (key := self._turns.next_news(now)) is not None:
            return self._taken(key, now)
        if (mount := self._to_count(now)) is not None:
            return MountWrite(step="count", state=mount.state)
        if may_ask and (key := self._turns.next_counters(now)) is not None:
            return self._taken(key, now)
        return None

    def _taken(self, key: Key, now: float) -> MountWrite:
        self._bucket.take(now)
        mount = self._mounts[key]
        write = MountWrite(step=_step(mount), state=mount.state)
        if write.step == "make":
            mount.exists = None  # until its answer comes
        return write

    def wait_s(self, now: float) -> float | None:
        """Until it is worth asking `next`; None: not before something changes."""
        moments = [at for at, _ in self._counters[:1]]
        if (soonest := self._turns.soonest()) is not None:
            wait = self._bucket.wait_s(now)
            moments.append(now + wait if wait else soonest)
        return max(0.0, min(moments) - now) if moments else None

    def done(self, write: MountWrite, now: float, *, found: bool = True) -> None:
        """The step is done; found: False if there was no such ClipMount."""
        key = write.state.subject.key
        mount = self._mounts.get(key)
        if mount is None:
            return
        if write.step == "delete":
            if mount.is_gone:
                self._forget(key)
        elif not found:
            mount.exists, mount.written = False, None
        else:
            mount.exists = True
            if write.step == "status":
                self._written(mount, write.state, now)

    def seen(self, write: MountWrite, state: State, now: float, *, says_all: bool) -> None:
        """It is there; state is what it becomes with what only the object found knew."""
        mount = self._mounts.get(write.state.subject.key)
        if mount is None or mount.state is not write.state:  # it is looked at once more
            return
        mount.exists, mount.state = True, state
        if says_all:
            self._written(mount, state, now)

    def dropped(self, write: MountWrite, now: float) -> None:
        """The API will not have it: not again until it changes, or its counters' time."""
        key = write.state.subject.key
        mount = self._mounts.get(key)
        if mount is None:
            return
        if mount.is_gone:
            self._forget(key)
        elif self._turns.remove(write.state.subject):
            self._look_at_counters(mount, self._later(now))

    def _new(self, subject: Subject, now: float, time: str) -> _Mount:
        state = State(subject=subject, ready_since=time, degraded_since=time)
        mount = self._mounts[subject.key] = _Mount(state=state, told_at=now)
        self._look_at_counters(mount, self._later(now))
        return mount

    def _written(self, mount: _Mount, state: State, now: float) -> None:
        if mount.is_gone:
            return
        mount.written = state
        self._turns.remove(state.subject)
        if news(mount.state) != news(state):
            self._turns.add_news(state.subject, now)  # behind who has waited meanwhile
        self._look_at_counters(mount, self._later(now))

    def counted(self, write: MountWrite, found: Mounted | None, now: float) -> None:
        """Its image's counters are these; None: it is not mounted, or nobody can tell."""
        mount = self._mounts.get(write.state.subject.key)
        if mount is None or mount.is_gone or mount.state.digest != write.state.digest:
            return
        if found is not None:
            _add(mount, found)
        self._due_if_changed(mount, now)

    def _to_count(self, now: float) -> _Mount | None:
        """Whose counters' time has come; of who has none it is only the time of another try."""
        while self._counters and self._counters[0][0] <= now:
            at, key = heapq.heappop(self._counters)
            mount = self._mounts.get(key)
            if mount is None or mount.counters_at != at or mount.is_gone:
                continue
            is_readable = mount.state.phase in READABLE
            if not is_readable and now - mount.told_at > FORGET_S:
                self._forget(key)
                continue
            self._look_at_counters(mount, self._later(now))
            if is_readable:
                return mount
            self._due_if_changed(mount, now)
        return None

    def _due_if_changed(self, mount: _Mount, now: float) -> None:
        if mount.written is None or status_fields(mount.state) != status_fields(mount.written):
            self._turns.add_counters(mount.state.subject, now)

    def _look_at_counters(self, mount: _Mount, at: float) -> None:
        mount.counters_at = at
        heapq.heappush(self._counters, (at, mount.state.subject.key))

    def _later(self, now: float) -> float:
        return now + COUNTERS_S * (1 + self._jitter() / 2)

    def _forget(self, key: Key) -> None:
        self._turns.remove(self._mounts.pop(key).state.subject)


def _add(mount: _Mount, found: Mounted) -> None:
    """The image's counters are these now."""
    known = mount.state.figures
    total = known.bytes_by_tier if known is not None else {}
    total = grown(total, mount.counts, found.bytes_by_tier)
    mount.counts = {**mount.counts, **found.bytes_by_tier}
    mount.state = replace(mount.state, figures=replace(found, bytes_by_tier=total))


def _step(mount: _Mount) -> Step:
    if mount.is_gone:
        return "delete"
    if mount.exists is None:
        return "look"
    return "status" if mount.exists else "make"
