"""The events that pods are to have: which, how often, how many times. Decides, writes nothing.

The same again raises the count of the event that is there. A pod has no more than a few, a node
not too many; what has to wait is merged meanwhile, so nothing grows with how often it is told.

Source: Kubernetes, core/v1 Event, which `kubectl describe pod` reads.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from csi.status.bucket import Bucket
from csi.status.reporter import Subject

COMPONENT = "csi.clipfs.dev"
AGAIN_S = 15
"""Between two writes of one event: of progress, too."""

POD_BURST, POD_EVERY_S = 20, 15
"""Of one pod; four a minute are what one volume's progress takes."""

NODE_BURST, NODE_EVERY_S = 50, 1
"""Of all pods of a node: 60 a minute."""

MAX_EVENTS = 2_000
"""Kept in memory to be counted on; beyond it those told longest ago are forgotten."""

FORGET_S = 3_000
"""An API server keeps events for an hour by default; one that is older is made anew."""

Reason = Literal["ClipResolved", "ClipIndexing", "ClipMounted", "ClipDegraded", "ClipFailed"]
WARNINGS: tuple[Reason, ...] = ("ClipDegraded", "ClipFailed")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventWrite:
    """One request: `body` is a new event, or a change of the one that is called name."""

    key: tuple[str, ...]
    namespace: str
    name: str
    is_new: bool
    body: Mapping[str, Any]
    count: int


@dataclass(slots=True, kw_only=True)
class _Event:
    """One of a pod's; name is empty until it is written, count what is written of it."""

    subject: Subject
    reason: Reason
    message: str
    first_time: str
    last_time: str
    told_at: float
    name: str = ""
    count: int = 0
    pending: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Events:
    """Of one node. Times are monotonic seconds (`now`) and RFC 3339 (`time`)."""

    node: str
    _events: dict[tuple[str, ...], _Event] = field(default_factory=dict)
    _pods: dict[str, Bucket] = field(default_factory=dict)
    _all: Bucket = field(default_factory=lambda: Bucket(burst=NODE_BURST, every_s=NODE_EVERY_S))

    def tell(
        self,
        subject: Subject,
        reason: Reason,
        message: str,
        now: float,
        time: str,
        *,
        cause: str = "",
    ) -> None:
        """One event a volume, reason and cause: its message is the latest.

        A message is no cause: it may name a file, a port or how long something took.
        """
        key = (*subject.key, reason, cause)
        event = self._events.pop(key, None)
        if event is None or now - event.told_at > FORGET_S:
            event = _Event(
                subject=subject, reason=reason, message=message, first_time=time,
                last_time=time, told_at=now,
            )  # fmt: skip  # as wide as it reads
        event.message, event.last_time, event.told_at = message, time, now
        event.pending += 1
        self._events[key] = event  # at the end: told last
        while len(self._events) > MAX_EVENTS:
            del self._events[next(iter(self._events))]

    def next(self, now: float) -> EventWrite | None:
        """What may be written now, the one that has waited longest first."""
        if self._all.wait_s(now):
            return None
        for key, event in self._events.items():
            if event.pending and event.not_before <= now and not self._pod(event).wait_s(now):
                self._all.take(now)
                self._pod(event).take(now)
                return self._write(key, event)
        return None

    def wait_s(self, now: float) -> float | None:
        """Until it is worth asking `next`; None: not before something is told."""
        wait = self._all.wait_s(now)
        if wait and any(event.pending for event in self._events.values()):
            return wait  # whose it is then, `next` sees
        pending = (event for event in self._events.values() if event.pending)
        waits = (max(event.not_before - now, self._pod(event).wait_s(now)) for event in pending)
        return min(waits, default=None)

    def done(self, write: EventWrite, now: float, *, found: bool = True) -> None:
        """It is written; found: False if the one to be changed was not there any more."""
        event = self._events.get(write.key)
        if event is None:
            return
        if not found:
            event.name, event.count, event.first_time = "", 0, event.last_time
            return
        event.name = write.name
        event.pending -= write.count - event.count
        event.count = write.count
        event.not_before = now + AGAIN_S
        self._tidy(now)

    def dropped(self, write: EventWrite) -> None:
        """The API will not have it: nothing more of it, until it is told again."""
        if event := self._events.get(write.key):
            event.pending = 0

    def _write(self, key: tuple[str, ...], event: _Event) -> EventWrite:
        count = event.count + event.pending
        changes = {"count": count, "lastTimestamp": event.last_time, "message": event.message}
        name = event.name or _name(key, event)
        return EventWrite(
            key=key,
            namespace=event.subject.pod.namespace,
            name=name,
            is_new=not event.name,
            body=changes if event.name else {**self._new(name, event), **changes},
            count=count,
        )

    def _new(self, name: str, event: _Event) -> dict[str, Any]:
        pod = event.subject.pod
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            },
            "type": "Warning" if event.reason in WARNINGS else "Normal",
            "reason": event.reason,
            "firstTimestamp": event.first_time,
            "source": {"component": COMPONENT, "host": self.node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.node,
        }

    def _pod(self, event: _Event) -> Bucket:
        uid = event.subject.pod.uid
        if uid not in self._pods:
            self._pods[uid] = Bucket(burst=POD_BURST, every_s=POD_EVERY_S)
        return self._pods[uid]

    def _tidy(self, now: float) -> None:
        """Forget what nobody has told for long, and the pods that may write all they want."""
        old = [k for k, e in self._events.items() if not e.pending and now - e.told_at > FORGET_S]
        for key in old:
            del self._events[key]
        for uid in [uid for uid, bucket in self._pods.items() if bucket.is_full(now)]:
            del self._pods[uid]


def _name(key: tuple[str, ...], event: _Event) -> str:
    """Unlike any other: of this pod, or of an earlier driver's time.

    In the order in which they were told: kubectl shows those of one second by their names.
    """
    words = "\0".join((*key, event.first_time))
    unlike = hashlib.sha256(words.encode()).hexdigest()[:8]
    return f"{event.subject.pod.name[:200]}.{int(event.told_at * 1e6):014x}{unlike}"
