"""Volumes in, volumes out: what NodePublishVolume and NodeUnpublishVolume do.

A volume is a read-only bind mount of its image's tree. Its record is written before anything
is mounted and removed after everything is unmounted, so that the next driver on this root
knows what there is. An image's tree goes with its last volume.

Locks are taken target first, then image, and no other way round.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.layer.layout import Layout
from clipfs.layer.partial import boot_id
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.records import RecordStore
from clipfs.mount.syscalls import bind_read_only, detach
from clipfs.tree.reader import ImageIndex
from csi.errors import VolumeConflict, VolumeNotFound
from csi.locks import NamedLocks
from csi.mounter import Mounter
from csi.volume import Volume

log = structlog.get_logger()

Resolve = Callable[[Volume, RegistryConfig], Image]
"""Asks the registry, with the pod's credentials, which image the volume's reference names."""


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One published volume; `made` are the folders that the driver made for it."""

    volume_id: str
    target: str
    digest: str
    image: str
    attributes: dict[str, str]
    boot_id: str
    made: list[str]
    pod: str = ""


class Publisher:
    """The volumes of one node, kept under `run/volumes`."""

    def __init__(
        self, layout: Layout, mounter: Mounter, resolve: Resolve, credentials: RegistryConfig
    ) -> None:
        """credentials  the node's own, which a pod's come before"""
        self._layout = layout
        self._mounter = mounter
        self._resolve = resolve
        self._credentials = credentials
        self._records = RecordStore(layout.run / "volumes", VolumeRecord)
        self._locks = NamedLocks()

    def adopt(self) -> None:
        """Take over what an earlier driver left: keep what lives, clean up what does not."""
        for key, record in self._records.all().items():
            if record.boot_id == boot_id() and mounts_at(Path(record.target)):
                log.info("volume adopted", volume=record.volume_id, image=record.image)
            else:
                self._forget(key, record)
        used = {record.digest for record in self._records.all().values()}
        for digest in self._mounter.mounted():
            if digest not in used:
                self._mounter.unmount(digest)

    def publish(self, volume: Volume) -> None:
        """Show volume at its target; at once if it is there already.

        Raises  any ClipError, after everything that this call made is gone
        """
        with self._locks.held(str(volume.target)):
            known = self._records.read(_key(volume.target))
            if known is not None:
                if known.attributes != dict(volume.attributes):
                    raise VolumeConflict(
                        f"{volume.target} holds a volume with other attributes "
                        f"(image {known.image}); unpublish it first"
                    )
                if known.boot_id == boot_id() and mounts_at(volume.target):
                    return
                self._remove(_key(volume.target), known)
            elif mounts_at(volume.target):
                raise VolumeConflict(f"{volume.target} is a mount that this driver did not make")
            credentials = self._credentials.merged(volume.credentials)
            image = self._resolve(volume, credentials)
            if volume.pull_policy == "Never" and not self._is_here(image):
                raise errors.ImageNotFound(
                    f"{volume.image} is not on this node, and pullPolicy is Never"
                )
            self._make(volume, image, credentials)
        log.info(
            "volume published",
            volume=volume.volume_id,
            image=str(volume.image),
            digest=image.digest,
            pod=volume.pod,
        )

    def unpublish(self, volume_id: str, target: Path) -> None:
        """Take the volume at target away; what is not there is done."""
        with self._locks.held(str(target)):
            key = _key(target)
            record = self._records.read(key)
            if record is not None:
                self._remove(key, record)
                log.info("volume unpublished", volume=volume_id, image=record.image)
            elif not mounts_at(target):
                with suppress(OSError):
                    target.rmdir()

    def usage(self, volume_id: str, path: Path) -> tuple[int, int]:
        """Bytes and names of the volume at path, from its index: the mount is never asked."""
        record = self._records.read(_key(path))
        if record is None or record.volume_id != volume_id:
            raise VolumeNotFound(f"no volume {volume_id} at {path}")
        with ImageIndex.open(self._layout.image_index(cache_key(Digest(record.digest)))) as index:
            return index.total_bytes, index.entry_count

    def _make(self, volume: Volume, image: Image, credentials: RegistryConfig) -> None:
        made = [one for one in (volume.target, *volume.target.parents) if not one.exists()]
        record = VolumeRecord(
            volume_id=volume.volume_id,
            target=str(volume.target),
            digest=image.digest,
            image=str(volume.image),
            attributes=dict(volume.attributes),
            boot_id=boot_id(),
            made=[str(one) for one in made],
            pod=volume.pod,
        )
        key = _key(volume.target)
        with self._locks.held(image.digest):
            try:
                self._records.write(key, record)
                tree = self._mounter.mount(image, front=volume.front, credentials=credentials)
                volume.target.mkdir(mode=0o750, parents=True, exist_ok=True)
                bind_read_only(tree, volume.target)
            except BaseException:
                self._undo(key, record)
                raise

    def _remove(self, key: str, record: VolumeRecord) -> None:
        with self._locks.held(record.digest):
            self._undo(key, record)

    def _undo(self, key: str, record: VolumeRecord) -> None:
        """Unmount and forget the volume, and the image with its last one; image lock held."""
        target = Path(record.target)
        for _ in mounts_at(target):
            detach(target)
        with suppress(OSError):
            target.rmdir()
        for folder in record.made[1:]:
            with suppress(OSError):
                os.rmdir(folder)
        self._records.remove(key)
        if record.digest not in {other.digest for other in self._records.all().values()}:
            self._mounter.unmount(Digest(record.digest))

    def _forget(self, key: str, record: VolumeRecord) -> None:
        log.info("volume is gone", volume=record.volume_id, image=record.image)
        self._remove(key, record)

    def _is_here(self, image: Image) -> bool:
        index = self._layout.image_index(cache_key(image.digest))
        return index.exists() and all(
            self._layout.payload(layer.cache_key).exists() for layer in image.layers
        )


def _key(target: Path) -> str:
    return hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
