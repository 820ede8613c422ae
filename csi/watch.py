"""Notices volumes that are there and not well, and tells of it: their server has died, reads
fail, or a tier is away (`csi.health`).

Not here: what is told to whom (`csi.status.reporter`).
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.mount import counters, figures, records
from clipfs.mount.mountinfo import Mount, read_mounts
from clipfs.mount.records import MountRecord
from csi.about import lines_about
from csi.health import SERVER_DIED, Health
from csi.periodic import Periodic
from csi.records import VolumeRecord, subject_of_record, volume_records
from csi.status.reporter import Reporter, Subject

EVERY_S = 15
"""A few small reads of our own records; people look at a pod that hangs after minutes."""


class VolumeWatch:
    """Of one driver's volumes."""

    def __init__(
        self, layout: Layout, reporter: Reporter, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._layout = layout
        self._reporter = reporter
        self._clock = clock
        self._told: dict[tuple[str, str], str] = {}  # subjects that are degraded, and why
        self._servers: dict[str, Health] | None = None  # by their mounts' records
        self._steps = Periodic("watch", self._step)

    def running(self) -> AbstractContextManager[None]:
        """Look in a thread of its own while the block runs."""
        return self._steps.running()

    def look(self) -> None:
        """Tell of the volumes that are not well since, or are well again."""
        shown = {mount.mountpoint: mount for mount in read_mounts()}
        lacks = self._lacks()  # after it: who serves what is shown has its record by then
        told: dict[tuple[str, str], str] = {}
        for record in volume_records(self._layout).all().values():
            subject = subject_of_record(record)
            if subject is None:
                continue
            mount = shown.get(Path(record.target))
            lack = "" if mount is None else _lack(mount, lacks)
            if lack:
                told[subject.key] = lack
            self._tell(record, subject, lack)
        self._told = told

    def _lacks(self) -> dict[str, str]:
        """What each mount lacks whose server lives, by its device; empty: nothing."""
        mounts = records.mounts(self._layout).all()
        known = self._servers
        self._servers = {}
        lacks = {}
        for name, mount in mounts.items():
            if mount.device is not None and records.is_served(mount):
                # what an earlier driver's time has seen is not told again
                health = None if known is None else known.get(name, Health())
                lacks[mount.device], self._servers[name] = self._asked(mount, health)
        return lacks

    def _asked(self, mount: MountRecord, health: Health | None) -> tuple[str, Health]:
        numbers = counters.numbers_of(self._layout, mount.pid)
        failed, errors = numbers[figures.FAILED], numbers[figures.TROUBLE["errors"]]
        health = health or Health(failed, errors)
        return health.lack(failed=failed, errors=errors, now=self._clock()), health

    def _tell(self, record: VolumeRecord, subject: Subject, lack: str) -> None:
        before = self._told.get(subject.key, "")
        if lack == before:
            return
        with lines_about(record.volume_id, pod=str(subject.pod), image=record.image):
            if lack:
                log.warning("a volume is not well", reason=lack)
                self._reporter.degraded(subject, f"{record.image}: {lack}", cause="server")
            else:
                log.info("a volume is well again")
                self._reporter.recovered(subject, cause="server")

    def _step(self) -> float:
        try:
            self.look()
        except OSError as error:
            log.warning("volumes could not be looked at", error=str(error))
        return EVERY_S


def _lack(mount: Mount, lacks: dict[str, str]) -> str:
    if mount.fstype != records.FSTYPES["fuse"]:
        return ""
    return lacks.get(mount.device, SERVER_DIED)
