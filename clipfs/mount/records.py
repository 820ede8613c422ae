"""State under `run/`: one small file a mount, written before mount(2), so that whoever comes
after a crash knows what was meant; mountinfo says what is.

A record counts only in the boot that wrote it. The CSI driver keeps its volumes in a store of
the same kind.
"""

import os
import secrets
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from clipfs.layer.durable import write_atomically
from clipfs.layer.layout import Layout
from clipfs.mount.mountinfo import Mount, read_mounts
from clipfs.processes import boot_id, is_alive, start_time

FSTYPE = "fuse.clip"
FSTYPES = frozenset({FSTYPE, "erofs"})
"""Of all fronts."""


class MountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of an image, and the process that serves it.

    started    start time of that process, so that a reused pid is not taken for it
    layers     cache keys that the mount reads: nobody may remove them meanwhile
    index_key  of the image index
    device     "major:minor" once it is mounted
    """

    id: str
    image: str
    digest: str
    mountpoint: str
    front: str
    pid: int
    started: int
    boot_id: str
    layers: tuple[str, ...]
    index_key: str
    device: str | None = None


T = TypeVar("T", bound=msgspec.Struct)


class RecordStore(Generic[T]):
    """Records of one type in one folder, `<id>.json`."""

    def __init__(self, folder: Path, kind: type[T]) -> None:
        self._folder = folder
        self._kind = kind

    def write(self, record_id: str, record: T) -> None:
        """Durable on return, whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path(record_id), msgspec.json.encode(record))

    def read(self, record_id: str) -> T | None:
        """None if there is no such record, or a power cut left nonsense."""
        try:
            return msgspec.json.decode(self._path(record_id).read_bytes(), type=self._kind)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def remove(self, record_id: str) -> None:
        self._path(record_id).unlink(missing_ok=True)

    def all(self) -> dict[str, T]:
        """Every readable record by its id."""
        if not self._folder.exists():
            return {}
        found = {path.stem: self.read(path.stem) for path in sorted(self._folder.glob("*.json"))}
        return {record_id: record for record_id, record in found.items() if record is not None}

    def _path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.json"


def mounts(layout: Layout) -> RecordStore[MountRecord]:
    return RecordStore(layout.run / "mounts", MountRecord)


def new_mount(
    *, image: str, digest: str, mountpoint: Path, layers: tuple[str, ...], index_key: str
) -> MountRecord:
    """The record of a mount that this process is about to make."""
    pid = os.getpid()
    return MountRecord(
        id=f"{pid}-{secrets.token_hex(4)}",
        image=image,
        digest=digest,
        mountpoint=str(mountpoint),
        front="fuse",
        pid=pid,
        started=start_time(pid) or 0,
        boot_id=boot_id(),
        layers=layers,
        index_key=index_key,
    )


def living(layout: Layout) -> list[MountRecord]:
    """Records whose server is alive and whose mount is mounted."""
    devices = {mount.device: mount for mount in read_mounts() if mount.fstype == FSTYPE}
    return [
        record
        for record in mounts(layout).all().values()
        if record.device in devices and is_served(record)
    ]


def in_use(layout: Layout) -> list[MountRecord]:
    """Records whose layers nobody may remove: the mount is shown somewhere, or its server lives.

    A dead server's mount counts until it is unmounted, and a server that was unmounted counts
    until it ends: somebody may still read an open file.
    """
    mounted = read_mounts()
    return [
        record
        for record in mounts(layout).all().values()
        if is_served(record) or any(_is_shown(record, mount) for mount in mounted)
    ]


def forget_ended(layout: Layout) -> None:
    """Remove the records of mounts that are no more and whose servers have ended."""
    store, used = mounts(layout), {record.id for record in in_use(layout)}
    for record_id, record in store.all().items():
        if record_id not in used and not is_served(record):
            store.remove(record_id)


def _is_shown(record: MountRecord, mount: Mount) -> bool:
    """Whether mount is the record's, wherever it is bound; device numbers are used again."""
    return record.boot_id == boot_id() and (
        (mount.device == record.device and mount.fstype in FSTYPES) or is_mount_of(record, mount)
    )


def is_served(record: MountRecord) -> bool:
    return record.boot_id == boot_id() and is_alive(record.pid, record.started)


def is_mount_of(record: MountRecord, mount: Mount) -> bool:
    """Whether the record speaks of this very mount, not of an earlier one at its place."""
    return (
        record.boot_id == boot_id()
        and mount.fstype == FSTYPE
        and record.device in (None, mount.device)
        and str(mount.mountpoint) == record.mountpoint
    )
