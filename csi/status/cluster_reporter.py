"""Tells the cluster: events on the pod, and one ClipMount a volume. A `Reporter`.

What is told goes into two ledgers (`events`, `mounts`), under a lock that is never held during a
request; one thread writes (`writer`). So nobody waits for an API server, and none that is away
fails or slows a publish.
"""

import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from clipfs.errors import ClipError
from clipfs.image.model import Image
from csi.errors import CallerGone, VolumeConflict
from csi.periodic import Periodic
from csi.progress import in_words
from csi.status.clip_mount import READABLE, last_error
from csi.status.events import Events, Reason
from csi.status.mounts import Figures, Mounts
from csi.status.reporter import Lack, Mounted, Reporter, Subject, WorkProgress, subject_of
from csi.status.texts import failure_text, mounted_text, one_line, resolved_text
from csi.status.writer import StatusApi, Writer
from csi.volume import Volume

END_S = 2
"""For the request that is under way when the driver ends; what is left is not written."""


class ClusterReporter(Reporter):
    """Tells nothing of a volume whose pod nobody has named."""

    def __init__(
        self,
        api: StatusApi,
        node: str,
        figures: Figures,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """figures  asked from the writing thread, every few minutes a volume"""
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._lacks: dict[tuple[str, str], dict[Lack, str]] = {}  # by subject
        self._events = Events(node)
        self._mounts = Mounts(jitter)
        self.writer = Writer(
            api,
            node,
            self._events,
            self._mounts,
            figures,
            lock=self._lock,
            clock=clock,
            jitter=jitter,
        )
        self._steps = Periodic("reporter", self.writer.step, end_s=END_S)

    def running(self) -> AbstractContextManager[None]:
        """Write in a thread of its own while the block runs."""
        return self._steps.running()

    def wanted(self, volume: Volume) -> None:
        if (subject := subject_of(volume)) is not None and not self._phase(subject):
            self._change(subject)

    def resolved(self, volume: Volume, image: Image) -> None:
        if (subject := subject_of(volume)) is not None:
            self._change(subject, digest=image.digest)
            self._event(subject, "ClipResolved", resolved_text(image))

    def indexing(self, volume: Volume, image: Image, progress: WorkProgress) -> None:
        if (subject := subject_of(volume)) is not None:
            text = in_words(progress)
            self._change(subject, phase="Indexing", digest=image.digest, progress=text)
            self._event(subject, "ClipIndexing", one_line(f"{image.reference}: {text}"))

    def mounted(self, volume: Volume, image: Image, mounted: Mounted) -> None:
        if (subject := subject_of(volume)) is not None:
            with self._lock:
                self._lacks.pop(subject.key, None)
            self._change(
                subject, phase="Mounted", digest=image.digest, figures=mounted, degraded=""
            )
            self._event(subject, "ClipMounted", mounted_text(image, mounted))

    def failed(self, volume: Volume, error: ClipError) -> None:
        if (subject := subject_of(volume)) is not None and not isinstance(error, CallerGone):
            self.refused(subject, error)

    def refused(self, subject: Subject, error: ClipError) -> None:
        is_anothers = isinstance(error, VolumeConflict) and self._phase(subject) in READABLE
        if not is_anothers:  # else it is there, and stays as it is
            self._change(subject, phase="Failed", error=last_error(error, self._time()))
        self._event(subject, "ClipFailed", failure_text(error), cause=error.code)

    def adopted(self, subject: Subject, digest: str) -> None:
        with self._lock:
            self._mounts.adopt(subject, digest, self._clock(), self._time())
        self._steps.soon()

    def degraded(self, subject: Subject, reason: str, *, cause: Lack) -> None:
        with self._lock:
            lacks = self._lacks.setdefault(subject.key, {})
            lacks[cause] = reason
            text = one_line("; ".join(lacks.values()))
        self._change(subject, phase="Degraded", degraded=text)
        self._event(subject, "ClipDegraded", one_line(reason), cause=cause)

    def recovered(self, subject: Subject, *, cause: Lack) -> None:
        with self._lock:
            lacks = self._lacks.get(subject.key, {})
            if lacks.pop(cause, None) is None:
                return
            text = one_line("; ".join(lacks.values()))
        self._change(subject, phase="Degraded" if text else "Mounted", degraded=text)

    def gone(self, subject: Subject) -> None:
        with self._lock:
            self._lacks.pop(subject.key, None)
            self._mounts.gone(subject, self._clock(), self._time())
        self._steps.soon()

    def _phase(self, subject: Subject) -> str:
        with self._lock:
            return self._mounts.phase(subject)

    def _change(self, subject: Subject, **fields: Any) -> None:
        with self._lock:
            self._mounts.change(subject, self._clock(), self._time(), **fields)
        self._steps.soon()

    def _event(self, subject: Subject, reason: Reason, message: str, *, cause: str = "") -> None:
        with self._lock:
            self._events.tell(subject, reason, message, self._clock(), self._time(), cause=cause)
        self._steps.soon()

    def _time(self) -> str:
        return self._wall().strftime("%Y-%m-%dT%H:%M:%SZ")
