"""What is mounted at volumes' targets: read-only binds of their images' trees, and their records.

A record is written before its volume is mounted and removed after that is unmounted, so that the
next driver on this root knows what there is.

Not here: locks, which who calls holds, and the trees (`csi.publisher`).
"""

import os
from contextlib import suppress
from pathlib import Path

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer.layout import Layout
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.records import has_died, is_ours
from clipfs.mount.syscalls import bind_read_only, detach
from clipfs.system.processes import boot_id
from csi.errors import VolumeConflict
from csi.records import VolumeRecord, left_records, record_of, volume_records
from csi.volume import Volume, name_of

MOST_MOUNTS = 8
"""At one target, dead ones that are covered among them: each is one in the node's table of mounts,
and in that of every container that sees it come."""


class Binds:
    """Those of one node."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._records = volume_records(layout)
        self._left = left_records(layout)

    def all(self) -> list[VolumeRecord]:
        return list(self._records.all().values())

    def at(self, target: Path) -> VolumeRecord | None:
        return self._records.read(name_of(target))

    def shows(self, digest: str) -> bool:
        """Whether a volume is of the image with this digest."""
        return any(record.digest == digest for record in self.all())

    def shown_before(self, volume: Volume) -> Digest | None:
        """What just this volume showed, if it was not unpublished: its mount has gone, or its
        server."""
        before = self.at(volume.target) or self._left.read(name_of(volume.target))
        return Digest(before.digest) if before is not None and _is_of(before, volume) else None

    def has_died(self, record: VolumeRecord) -> bool:
        """Whether it is mounted and nobody answers its reads."""
        here = mounts_at(Path(record.target))
        return bool(here) and has_died(self._layout, here[-1])

    def left_over(self, target: Path) -> VolumeRecord | None:
        """The volume at target if its mount is gone."""
        record = self.at(target)
        return None if record is None or is_mounted(record) else record

    def there(self, volume: Volume) -> VolumeRecord | None:
        """Of just this volume, if it is at its target; VolumeConflict if something else is.

        What is left over there counts: it is to be removed before.
        """
        known = self.at(volume.target)
        if known is None:
            if mounts_at(volume.target):
                raise VolumeConflict(f"{volume.target} is a mount that this driver did not make")
            return None
        if not _is_of(known, volume):
            raise VolumeConflict(
                f"{volume.target} holds another volume, or the same with other attributes "
                f"(image {known.image}); unpublish it first"
            )
        return known

    def make(self, volume: Volume, digest: Digest, tree: Path) -> None:
        """Show tree at volume's target; if that fails nothing of it is left.

        One whose server has died is covered, not taken away: so containers that run get the new
        mount, too, if they have mountPropagation HostToContainer, and none ever sees nothing.
        """
        check_target(volume.target)
        if self.at(volume.target) is not None:
            if len(mounts_at(volume.target)) == MOST_MOUNTS:
                _uncover_first(volume.target)
            bind_read_only(tree, volume.target)
            return
        record = record_of(volume, digest)
        try:
            self._records.write(name_of(volume.target), record)
            volume.target.mkdir(mode=0o750, parents=True, exist_ok=True)
            bind_read_only(tree, volume.target)
        except BaseException:
            self.remove(record)
            raise

    def remove(self, record: VolumeRecord) -> None:
        """Unmount and forget the volume, with the folders that were made for it."""
        target = Path(record.target)
        _detach_all(target)
        for folder in record.made:
            with suppress(OSError):
                os.rmdir(folder)
        self._records.remove(name_of(target))

    def set_aside(self, record: VolumeRecord) -> None:
        """The same, of one that may be published again: then it is to show what it showed."""
        self._left.write(name_of(Path(record.target)), record)
        self.remove(record)

    def forget(self, target: Path) -> VolumeRecord | None:
        """What was set aside of the volume at target, which does not come again."""
        name = name_of(target)
        left = self._left.read(name)
        self._left.remove(name)
        return left

    def forget_gone(self) -> None:
        """As long as the kubelet has a volume there is a folder for it, the target's parent."""
        for name, left in self._left.all().items():
            if not Path(left.target).parent.exists():
                self._left.remove(name)

    def remove_unknown(self, target: Path) -> bool:
        """Unmount what is ours at target though its record was lost; whether there was any."""
        self._records.remove(name_of(target))  # it may be there and unreadable
        is_there = any(is_ours(mount) for mount in mounts_at(target))
        if is_there:
            _detach_all(target)
        return is_there


def _is_of(record: VolumeRecord, volume: Volume) -> bool:
    return (record.volume_id, record.attributes) == (volume.volume_id, dict(volume.attributes))


def is_mounted(record: VolumeRecord) -> bool:
    return record.boot_id == boot_id() and bool(mounts_at(Path(record.target)))


def check_target(target: Path) -> None:
    if not mounts_at(target) and target.is_symlink():  # who looks at a dead mount gets an error
        raise errors.InvalidInput(f"target path {target} is a symbolic link")


def remove_folder(target: Path) -> None:
    """What the kubelet made, or an earlier driver; a mount point, and what holds files, stays."""
    if not mounts_at(target):
        with suppress(OSError):
            target.rmdir()


def _uncover_first(target: Path) -> None:
    """Take all but the lowest mount away; dead, it keeps target from being an empty folder.

    A container that has one of the others gets no later one, until it is started again.
    """
    for _ in mounts_at(target)[1:]:
        detach(target)


def _detach_all(target: Path) -> None:
    """Take away whatever is mounted at target; lazily, so that a dead mount cannot hold us."""
    for _ in mounts_at(target):
        detach(target)
