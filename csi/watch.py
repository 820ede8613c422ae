"""Notices volumes whose server has died, and tells of it: their reads fail, whoever asks.

Not here: what is told to whom (`csi.status.reporter`).
"""

from contextlib import AbstractContextManager
from pathlib import Path

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.mount import records
from clipfs.mount.mountinfo import read_mounts
from csi.periodic import Periodic
from csi.records import subject_of_record, volume_records
from csi.status.reporter import Reporter

EVERY_S = 15
"""A few small reads of our own records; people look at a pod that hangs after minutes."""

SERVER_DIED = (
    "the server of its image has died, so reads fail (Transport endpoint is not connected); delete "
    "the pod, its next one gets a new server; the node's log says what it died of"
)


class Watch:
    """Of one driver's volumes."""

    def __init__(self, layout: Layout, reporter: Reporter) -> None:
        self._layout = layout
        self._reporter = reporter
        self._told: set[tuple[str, str]] = set()  # subjects that are degraded
        self._steps = Periodic("watch", self._step)

    def running(self) -> AbstractContextManager[None]:
        """Look in a thread of its own while the block runs."""
        return self._steps.running()

    def look(self) -> None:
        """Tell of the volumes whose servers have died since, or are back."""
        dead = {
            mount.device
            for mount in records.mounts(self._layout).all().values()
            if mount.device is not None and not records.is_answered(mount)
        }
        shown = {mount.mountpoint: mount.device for mount in read_mounts()}
        told: set[tuple[str, str]] = set()
        for record in volume_records(self._layout).all().values():
            subject = subject_of_record(record)
            if subject is None:
                continue
            if shown.get(Path(record.target)) in dead:
                told.add(subject.key)
                if subject.key not in self._told:
                    log.warning("the server of a volume has died", volume=record.volume_id)
                    self._reporter.degraded(
                        subject, f"{record.image}: {SERVER_DIED}", cause="server"
                    )
            elif subject.key in self._told:
                self._reporter.recovered(subject, cause="server")
        self._told = told

    def _step(self) -> float:
        try:
            self.look()
        except OSError as error:
            log.warning("volumes could not be looked at", error=str(error))
        return EVERY_S
