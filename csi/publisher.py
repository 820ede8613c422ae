"""Volumes in, volumes out: what NodePublishVolume and NodeUnpublishVolume do.

A volume is a read-only bind mount (`csi.binds`) of its image's tree, which is made before
(`csi.trees`) and goes with its last volume.

Locks are taken target first, then image, and no other way round.
"""

from dataclasses import replace
from pathlib import Path

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.layer.layout import Layout
from clipfs.layer.use import InUse
from clipfs.log import log
from clipfs.tree.reader import ImageIndex
from csi.about import also_about
from csi.admissions import Admissions, Admit
from csi.adoption import adopt
from csi.asker import PATIENT
from csi.binds import Binds, check_target, remove_folder
from csi.calls import Call
from csi.credentials.asking import Asking
from csi.credentials.handing import Handing
from csi.errors import CallerGone, StillIndexing, VolumeNotFound, os_errors_named
from csi.health import SERVER_DIED
from csi.locks import NamedLocks, StillWanted, always
from csi.mounter import Mounter
from csi.records import VolumeRecord, subject_of_record
from csi.renewal import Renewal
from csi.status.reporter import Mounted, Reporter, WorkProgress, subject_of
from csi.trees import Trees, keys_of
from csi.unfinished import Unfinished
from csi.volume import Volume
from csi.work import LINGER_S

NO_HURRY = Call()


class Publisher:
    """The volumes of one node, kept under `run/volumes`."""

    def __init__(
        self,
        layout: Layout,
        mounter: Mounter,
        admit: Admit,
        asking: Asking,
        handing: Handing,
        *,
        reporter: Reporter | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        """asking, handing  whose credentials a volume has, and who is lent them
        linger_s         how long work goes on, and its tree stays, for a call that comes again
        """
        self._layout = layout
        self._admit = admit
        self._admissions = Admissions(admit, asking, linger_s=linger_s)
        self._asking = asking
        self._handing = handing
        self._unfinished = Unfinished(handing.volume_gone)
        self._binds = Binds(layout)
        self._locks = NamedLocks()
        self._reporter = reporter or Reporter()
        self._renewal = Renewal(self._prove, asking, handing, self._reporter)
        self._trees = Trees(
            layout, mounter, self._locks, is_shown=self._binds.shows, linger_s=linger_s
        )

    def adopt(self) -> None:
        """Take over what an earlier driver left: keep what lives, clean up what does not."""
        adopt(self._binds, self._trees, self._handing, self._reporter, set_aside=self._set_aside)

    def end(self) -> None:
        """Answer the calls that wait, and stop what they wait for; volumes stay."""
        self._trees.end()
        self._admissions.end()
        self._renewal.end()

    def publish(self, volume: Volume, call: Call = NO_HURRY) -> None:
        """Show volume at its target; at once if it is there already, and with what it brings. One
        whose server has died gets another.

        Raises  StillIndexing if its image is not known, or its tree not there, by the time that
                call must be answered; any ClipError. Then everything that this call made is gone
        """
        self._reporter.wanted(volume)
        try:
            with (
                os_errors_named(),
                self._locks.held(
                    str(volume.target),
                    call.still_wanted,
                    on_wait=lambda: call.check_time(lambda: self._words(volume)),
                ),
            ):
                self._seen_to(volume, call)
        except (CallerGone, StillIndexing):
            raise
        except errors.ClipError as error:
            self._reporter.failed(volume, error)
            raise

    def _seen_to(self, volume: Volume, call: Call) -> None:
        """The same, by who holds the target's lock."""
        known = self._there(volume)
        if known is not None:
            if not self._binds.has_died(known):
                self._renewal.again(Digest(known.digest), volume)
                return
            self._tell_of_death(volume)
        try:
            self._publish(volume, call, is_new=known is None)
        except (CallerGone, StillIndexing):
            raise
        except BaseException:
            self._unfinished.pin(volume.target, None)
            self._handing.volume_gone(volume.target)
            raise

    def _words(self, volume: Volume) -> str:
        """What the call waits for that another one of the same volume is made to wait for."""
        target = volume.target
        said = self._admissions.words(target) or self._trees.words(target)
        return f"{volume.image}: {said or 'another call for the same volume is under way'}"

    def _publish(self, volume: Volume, call: Call, *, is_new: bool) -> None:
        pinned = self._unfinished.begin(volume) or self._binds.shown_before(volume)
        image, chosen = self._admissions.joined(volume, pinned, call)
        self._reporter.resolved(volume, image)
        check_target(volume.target)
        with InUse(self._layout) as in_use:  # what is here stays, whoever makes room
            in_use.hold(keys_of(image))
            if is_new and volume.pull_policy == "Never":
                self._trees.check_is_here(volume, image)
            try:
                self._handing.volume_here(image.digest, volume)
                mounted = self._shown(volume, image, chosen.config, call)
            except StillIndexing:
                self._unfinished.pin(volume.target, image.digest)
                raise
            except (errors.Unauthenticated, errors.AccessDenied) as refusal:
                self._trees.drop_unused(image.digest)
                raise self._asking.explained(refusal, volume, chosen) from refusal
            except BaseException:
                self._trees.drop_unused(image.digest)
                raise
        self._unfinished.end(volume.target)
        self._reporter.mounted(volume, image, mounted)
        log.info("volume published", digest=image.digest)

    def unpublish(self, volume_id: str, target: Path, still_wanted: StillWanted = always) -> None:
        """Take the volume at target away; what is not there is done."""
        with os_errors_named(), self._locks.held(str(target), still_wanted):
            record = self._binds.at(target)
            if record is not None and record.volume_id != volume_id:
                log.warning("another volume is at that target, it stays")
                return
            if record is not None:
                also_about(pod=str(record.pod), image=record.image)
                self._remove(record)
                if (subject := subject_of_record(record)) is not None:
                    self._reporter.gone(subject)
                log.info("volume unpublished")
            else:
                self._remove_unknown(target)
            remove_folder(target)
            self._forget(target)

    def usage(self, volume_id: str, path: Path) -> tuple[int, int]:
        """Bytes and names of the volume at path, from its index: the mount is never asked."""
        record = self._binds.at(path)
        if record is None or record.volume_id != volume_id:
            raise VolumeNotFound(f"no volume {volume_id[:100]} at {path}")
        also_about(pod=str(record.pod), image=record.image)
        index_path = self._layout.image_index(cache_key(Digest(record.digest)))
        with os_errors_named(), ImageIndex.open(index_path) as index:
            return index.total_bytes, index.entry_count

    def _tell_of_death(self, volume: Volume) -> None:
        """Here, since who looks now and then (`csi.watch`) may come too late to see it."""
        log.warning("the server of a volume has died, it gets another")
        if (subject := subject_of(volume)) is not None:
            self._reporter.degraded(subject, f"{volume.image}: {SERVER_DIED}", cause="server")

    def _forget(self, target: Path) -> None:
        """What is kept of a volume that was there, or of calls that do not come again."""
        self._handing.volume_gone(target)
        self._renewal.gone(target)
        volume, left = self._unfinished.end(target), self._binds.forget(target)
        subjects = [subject_of(volume)] if volume is not None else []
        subjects += [subject_of_record(left)] if left is not None else []
        for subject in filter(None, subjects):
            self._reporter.gone(subject)

    def _prove(self, volume: Volume, digest: Digest, credentials: RegistryConfig) -> Image:
        return self._admit(volume, credentials, pinned=digest, asker=PATIENT)

    def _there(self, volume: Volume) -> VolumeRecord | None:
        """Of just this volume, if it is at its target; VolumeConflict if something else is.

        What is left of one whose mount is gone is removed: the target is free for this one.
        """
        if (left := self._binds.left_over(volume.target)) is not None:
            self._set_aside(left)
        return self._binds.there(volume)

    def _shown(
        self, volume: Volume, image: Image, credentials: RegistryConfig, call: Call
    ) -> Mounted:
        """The image's tree is at the volume's target; what its mount came to."""

        def on_wait(progress: WorkProgress | None) -> None:
            if progress is not None and progress.layer:
                self._reporter.indexing(volume, image, progress)

        with (
            self._trees.joined(volume, image, credentials, call, on_wait) as tree,
            self._locks.held(image.digest, call.still_wanted),
        ):
            is_shared = tree.mounted.is_shared and self._binds.shows(image.digest)
            is_again = self._binds.at(volume.target) is not None
            self._binds.make(volume, image.digest, tree.place)
            return replace(tree.mounted, is_shared=is_shared, is_again=is_again)

    def _remove(self, record: VolumeRecord) -> None:
        """Take the volume away, and its image's tree with the last one."""
        with self._locks.held(record.digest):
            self._binds.remove(record)
            self._trees.drop_if_unused(Digest(record.digest))

    def _set_aside(self, record: VolumeRecord) -> None:
        """The same, of one whose mount is gone and which may be published again."""
        with self._locks.held(record.digest):
            self._binds.set_aside(record)
            self._trees.drop_if_unused(Digest(record.digest))

    def _remove_unknown(self, target: Path) -> None:
        """Take away a mount of ours whose record was lost, and what only it used."""
        if self._binds.remove_unknown(target):
            for digest in self._trees.mounted():
                self._trees.drop_unused(digest)
