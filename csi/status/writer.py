"""Writes what the ledgers decide, one request at a time, as the API server takes it.

One that is away is asked ever more seldom, and what happens meanwhile is merged. What it refuses,
or what cannot be written, is given up: it must not stand in the way of the rest.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from clipfs.log import log
from csi.cluster.api import ClipMountApi, EventApi
from csi.cluster.errors import ApiRefused, ApiRejected, ApiUnavailable
from csi.status.clip_mount import carried, object_fields, object_name, says, status_fields
from csi.status.events import Events, EventWrite
from csi.status.mounts import Figures, Mounts, MountWrite

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""After the first failure in a row, and after many; each is twice the one before."""

COMPLAIN_S = 60
"""Between two warnings of refusals: without its role the driver is refused all the time."""


class StatusApi(EventApi, ClipMountApi, Protocol):
    """What is called here, from one thread."""


class Writer:
    def __init__(
        self,
        api: StatusApi,
        node: str,
        events: Events,
        mounts: Mounts,
        figures: Figures,
        *,
        lock: threading.Lock,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """lock  held while a ledger is looked at or changed, never during a request or a read"""
        self._api = api
        self._node = node
        self._events = events
        self._mounts = mounts
        self._figures = figures
        self._lock = lock
        self._clock = clock
        self._jitter = jitter
        self._pause_s = 0.0
        self._not_before = 0.0
        self._complained_at = -float(COMPLAIN_S)

    def step(self) -> float | None:
        """Do one thing, if one is due; seconds to the next one, None: nothing waits."""
        now = self._clock()
        if now < self._not_before:
            return self._not_before - now
        with self._lock:
            write = self._events.next(now) or self._mounts.next(now)
            if write is None:
                waits = (self._events.wait_s(now), self._mounts.wait_s(now))
                return min((wait for wait in waits if wait is not None), default=None)
        try:
            self._write(write)
        except ApiUnavailable as error:
            return self._pause(str(error))
        except (ApiRefused, ApiRejected) as error:
            self._complain(str(error))
            self._give_up(write)
        except Exception:
            log.exception("a report cannot be written, this is a bug")
            self._give_up(write)
        if _is_count(write):
            return 0.0
        if self._pause_s:
            log.info("API server is back, catching up")
        self._pause_s = 0.0
        return 0.0

    def _write(self, write: EventWrite | MountWrite) -> None:
        if isinstance(write, EventWrite):
            self._write_event(write)
        elif write.step == "count":
            self._count(write)
        elif write.step == "look":
            self._look(write)
        else:
            self._write_mount(write)

    def _write_event(self, write: EventWrite) -> None:
        found = True
        if write.is_new:
            try:
                self._api.create_event(write.namespace, write.body)
            except ApiRejected as error:
                if error.status != 409:  # the answer to an earlier try was lost
                    raise
        else:
            found = self._api.patch_event(write.namespace, write.name, write.body)
        with self._lock:
            self._events.done(write, self._clock(), found=found)

    def _count(self, write: MountWrite) -> None:
        found = None
        try:
            found = self._figures(write.state.digest)
        except OSError as error:
            log.warning("counters cannot be read", error=str(error))
        with self._lock:
            self._mounts.counted(write, found, self._clock())

    def _look(self, write: MountWrite) -> None:
        subject = write.state.subject
        there = self._api.clip_mount(subject.pod.namespace, object_name(subject))
        with self._lock:
            if there is None:
                self._mounts.done(write, self._clock(), found=False)
                return
            state = carried(there, write.state)
            self._mounts.seen(write, state, self._clock(), says_all=says(there, state))

    def _write_mount(self, write: MountWrite) -> None:
        subject, found = write.state.subject, True
        where = subject.pod.namespace, object_name(subject)
        if write.step == "delete":
            self._api.delete_clip_mount(*where)
        elif write.step == "make":
            self._api.apply_clip_mount(*where, object_fields(subject, self._node))
        else:
            found = self._api.apply_clip_mount_status(*where, status_fields(write.state))
        with self._lock:
            self._mounts.done(write, self._clock(), found=found)

    def _pause(self, error: str) -> float:
        if not self._pause_s:
            log.warning("API server is away, what people see is late", error=error)
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
        wait_s = self._pause_s * (1 + self._jitter() / 2)  # nodes do not come back as one
        self._not_before = self._clock() + wait_s
        return wait_s

    def _complain(self, error: str) -> None:
        now = self._clock()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            log.warning("API server refuses what people were to see", error=error)

    def _give_up(self, write: EventWrite | MountWrite) -> None:
        with self._lock:
            if isinstance(write, EventWrite):
                self._events.dropped(write)
            else:
                self._mounts.dropped(write, self._clock())


def _is_count(write: EventWrite | MountWrite) -> bool:
    """Which asks nobody: it says nothing of the API server."""
    return isinstance(write, MountWrite) and write.step == "count"
