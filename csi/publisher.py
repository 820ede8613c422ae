"""Volumes in, volumes out: what NodePublishVolume and NodeUnpublishVolume do.

A volume is a read-only bind mount of its image's tree. Its record is written before anything
is mounted and removed after everything is unmounted, so that the next driver on this root
knows what there is. An image's tree is made before (`csi.trees`), and goes with its last volume.

Locks are taken target first, then image, and no other way round.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.layer.layout import Layout
from clipfs.layer.use import InUse
from clipfs.log import log
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.records import is_ours
from clipfs.mount.syscalls import bind_read_only
from clipfs.tree.reader import ImageIndex
from csi.about import also_about, lines_about
from csi.calls import Call
from csi.credentials.asking import Asking
from csi.credentials.handing import Handing
from csi.errors import CallerGone, StillIndexing, VolumeConflict, VolumeNotFound
from csi.locks import NamedLocks, StillWanted, always
from csi.mounter import Mounter, Tree
from csi.records import (
    VolumeRecord,
    detach_all,
    is_mounted,
    key_of,
    record_of,
    subject_of_record,
    volume_of,
    volume_records,
)
from csi.status.reporter import NoReporter, Reporter, WorkProgress, subject_of
from csi.trees import Trees, keys_of
from csi.unfinished import Unfinished
from csi.volume import Volume
from csi.work import LINGER_S


class Admit(Protocol):
    def __call__(
        self, volume: Volume, credentials: RegistryConfig, *, pinned: Digest | None = None
    ) -> Image:
        """The image that the volume may show, to who holds credentials: `Access.admit`."""


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
        self._asking = asking
        self._handing = handing
        self._unfinished = Unfinished()
        self._records = volume_records(layout)
        self._locks = NamedLocks()
        self._reporter = reporter or NoReporter()
        self._trees = Trees(
            layout, mounter, self._locks, is_shown=self._is_shown, linger_s=linger_s
        )

    def adopt(self) -> None:
        """Take over what an earlier driver left: keep what lives, clean up what does not."""
        for record in self._records.all().values():
            with lines_about(record.volume_id, pod=str(record.pod), image=record.image):
                if is_mounted(record):
                    log.info("volume adopted")
                    self._handing.volume_here(Digest(record.digest), volume_of(record))
                    if (subject := subject_of_record(record)) is not None:
                        self._reporter.adopted(subject, record.digest)
                    continue
                log.info("volume is gone")
                with _failure_logged("volume is left as it is"):
                    self._remove(record)
        for digest in self._trees.mounted():
            with _failure_logged("image is left as it is", digest=digest):
                self._trees.drop_unused(digest)

    def end(self) -> None:
        """Answer the calls that wait for a tree, and stop all work on one; volumes stay."""
        self._trees.end()

    def publish(self, volume: Volume, call: Call = NO_HURRY) -> None:
        """Show volume at its target; at once if it is there already.

        Raises  StillIndexing if its image's tree is not there by the time that call must be
                answered; any ClipError. Then everything that this call made is gone
        """
        self._reporter.wanted(volume)
        try:
            with (
                _os_errors_named(),
                self._locks.held(str(volume.target), call.still_wanted, on_wait=call.check_time),
            ):
                if self._is_there(volume):
                    return
                try:
                    self._publish(volume, call)
                except (CallerGone, StillIndexing):
                    raise
                except BaseException:
                    self._unfinished.pin(volume.target, None)
                    self._handing.volume_gone(volume.target)
                    raise
        except (CallerGone, StillIndexing):
            raise
        except errors.ClipError as error:
            self._reporter.failed(volume, error)
            raise

    def _publish(self, volume: Volume, call: Call) -> None:
        pinned = self._unfinished.begin(volume)
        image, chosen = self._asking.ask(volume, partial(self._admit, volume, pinned=pinned))
        self._reporter.resolved(volume, image)
        _check_target(volume.target)
        with InUse(self._layout) as in_use:  # what is here stays, whoever makes room
            in_use.hold(keys_of(image))
            if volume.pull_policy == "Never" and not self._is_here(image):
                raise errors.ImageNotFound(
                    f"{volume.image} is not on this node, and pullPolicy is Never"
                )
            try:
                self._handing.volume_here(image.digest, volume)
                tree = self._shown(volume, image, chosen.config, call)
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
        self._reporter.mounted(volume, image, tree.mounted)
        log.info("volume published", digest=image.digest)

    def unpublish(self, volume_id: str, target: Path, still_wanted: StillWanted = always) -> None:
        """Take the volume at target away; what is not there is done."""
        with _os_errors_named(), self._locks.held(str(target), still_wanted):
            record = self._records.read(key_of(target))
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
            if not mounts_at(target):
                with suppress(OSError):
                    target.rmdir()
            self._forget(target)

    def usage(self, volume_id: str, path: Path) -> tuple[int, int]:
        """Bytes and names of the volume at path, from its index: the mount is never asked."""
        record = self._records.read(key_of(path))
        if record is None or record.volume_id != volume_id:
            raise VolumeNotFound(f"no volume {volume_id[:100]} at {path}")
        also_about(pod=str(record.pod), image=record.image)
        index_path = self._layout.image_index(cache_key(Digest(record.digest)))
        with _os_errors_named(), ImageIndex.open(index_path) as index:
            return index.total_bytes, index.entry_count

    def _forget(self, target: Path) -> None:
        """What is kept of a volume that was there, or of calls that do not come again."""
        self._handing.volume_gone(target)
        volume = self._unfinished.end(target)
        if volume is not None and (subject := subject_of(volume)) is not None:
            self._reporter.gone(subject)

    def _is_there(self, volume: Volume) -> bool:
        """Whether just this volume is at its target; VolumeConflict if something else is.

        What is left of one whose mount is gone is removed: the target is free for this one.
        """
        known = self._records.read(key_of(volume.target))
        if known is None:
            if mounts_at(volume.target):
                raise VolumeConflict(f"{volume.target} is a mount that this driver did not make")
            return False
        if not is_mounted(known):
            self._remove(known)
            return False
        if (known.volume_id, known.attributes) != (volume.volume_id, dict(volume.attributes)):
            raise VolumeConflict(
                f"{volume.target} holds another volume, or the same with other attributes "
                f"(image {known.image}); unpublish it first"
            )
        return True

    def _shown(self, volume: Volume, image: Image, credentials: RegistryConfig, call: Call) -> Tree:
        """The image's tree, once it is at the volume's target."""

        def on_wait(progress: WorkProgress | None) -> None:
            if progress is not None and progress.layer:
                self._reporter.indexing(volume, image, progress)

        with self._trees.joined(volume, image, credentials, call, on_wait) as tree:
            self._bind(volume, image, tree, call)
        return tree

    def _bind(self, volume: Volume, image: Image, tree: Tree, call: Call) -> None:
        _check_target(volume.target)
        record = record_of(volume, image.digest)
        with self._locks.held(image.digest, call.still_wanted):
            try:
                self._records.write(key_of(volume.target), record)
                volume.target.mkdir(mode=0o750, parents=True, exist_ok=True)
                bind_read_only(tree.place, volume.target)
            except BaseException:
                self._undo(record)
                raise

    def _remove(self, record: VolumeRecord) -> None:
        with self._locks.held(record.digest):
            self._undo(record)

    def _remove_unknown(self, target: Path) -> None:
        """Take away a mount of ours whose record was lost, and what only it used."""
        self._records.remove(key_of(target))  # it may be there and unreadable
        if not any(is_ours(mount) for mount in mounts_at(target)):
            return
        detach_all(target)
        for digest in self._trees.mounted():
            self._trees.drop_unused(digest)

    def _undo(self, record: VolumeRecord) -> None:
        """Unmount and forget the volume, and the image with its last one; image lock held."""
        detach_all(Path(record.target))
        for folder in record.made:
            with suppress(OSError):
                os.rmdir(folder)
        self._records.remove(key_of(Path(record.target)))
        self._trees.drop_if_unused(Digest(record.digest))

    def _is_shown(self, digest: str) -> bool:
        return any(record.digest == digest for record in self._records.all().values())

    def _is_here(self, image: Image) -> bool:
        if image.digest in self._trees.mounted():
            return True
        index = self._layout.image_index(cache_key(image.digest))
        return index.exists() and all(
            self._layout.payload(layer.cache_key).exists() for layer in image.layers
        )


def _check_target(target: Path) -> None:
    if target.is_symlink():
        raise errors.InvalidInput(f"target path {target} is a symbolic link")


@contextmanager
def _os_errors_named() -> Iterator[None]:
    """The node's own refusals, a read-only or a full disk among them, as NodeFault or DiskFull."""
    try:
        yield
    except OSError as error:
        raise errors.node_fault(error) from error


@contextmanager
def _failure_logged(event: str, **about: str) -> Iterator[None]:
    """One broken volume must not keep the driver from starting."""
    try:
        yield
    except (errors.ClipError, OSError) as error:
        log.warning(event, error=str(error), **about)
