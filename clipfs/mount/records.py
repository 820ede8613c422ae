"""State under `run/`: one small file a mount, written before it is mounted, so that whoever
comes after a crash knows what was meant; mountinfo says what is.

A record counts only in the boot that wrote it. A mount that the kernel serves alone lives for as
long as mountinfo shows it; one of ours, for as long as its server lives too. The CSI driver keeps
its volumes in a store of the same kind.
"""

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.mount.mountinfo import Mount, read_mounts
from clipfs.system.durable import write_atomically
from clipfs.system.processes import boot_id, is_alive, start_time

Front = Literal["erofs", "fuse"]
FSTYPES: dict[Front, str] = {"erofs": "erofs", "fuse": "fuse.clip"}
_IMAGE_INDEX = re.compile(r"sha256_[0-9a-f]{64}\.v1\.erofs")


class MountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One mount of an image, and the process that serves it; pid 0 where the kernel does.

    started    start time of that process, so that a reused pid is not taken for it
    layers     cache keys that the mount reads: nobody may remove them meanwhile
    index_key  of the image index
    device     "major:minor" once it is mounted
    """

    id: str
    image: str
    digest: str
    mountpoint: str
    front: Front
    pid: int
    started: int
    boot_id: str
    layers: tuple[str, ...]
    index_key: str
    device: str | None = None


T = TypeVar("T", bound=msgspec.Struct)


class RecordStore(Generic[T]):
    """Records of one type in one folder, `<id>.json`."""

    def __init__(self, folder: Path, kind: type[T], *, durable: bool = True) -> None:
        """durable  records count after a power cut, too"""
        self._folder = folder
        self._kind = kind
        self._durable = durable

    def write(self, record_id: str, record: T) -> None:
        """Whole or not at all, whenever a process is killed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = msgspec.json.encode(record)
        write_atomically(self._path(record_id), data, durable=self._durable)

    def read(self, record_id: str) -> T | None:
        """None if there is no such record, or a power cut left nonsense."""
        try:
            return msgspec.json.decode(self._path(record_id).read_bytes(), type=self._kind)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def remove(self, record_id: str) -> None:
        """A disk that refuses keeps it until the next who tidies up: what it spoke of has gone."""
        try:
            self._path(record_id).unlink(missing_ok=True)
        except OSError as error:
            if not errors.is_the_disks(error):
                raise
            log.warning("a record stays for now", error=str(errors.node_fault(error)))

    def all(self) -> dict[str, T]:
        """Every readable record by its id."""
        if not self._folder.exists():
            return {}
        found = {path.stem: self.read(path.stem) for path in sorted(self._folder.glob("*.json"))}
        return {record_id: record for record_id, record in found.items() if record is not None}

    def _path(self, record_id: str) -> Path:
        return self._folder / f"{record_id}.json"


def mounts(layout: Layout) -> RecordStore[MountRecord]:
    """After a power cut nothing is mounted: no mount waits for the disk to have its record."""
    return RecordStore(layout.run / "mounts", MountRecord, durable=False)


def new_mount(
    *,
    image: str,
    digest: str,
    mountpoint: Path,
    layers: tuple[str, ...],
    index_key: str,
    front: Front = "fuse",
    device: str | None = None,
) -> MountRecord:
    """The record of a mount that this process is about to make, and to serve if it is fuse."""
    pid = os.getpid() if front == "fuse" else 0
    return MountRecord(
        id=f"{os.getpid()}-{secrets.token_hex(4)}",
        image=image,
        digest=digest,
        mountpoint=str(mountpoint),
        front=front,
        pid=pid,
        started=start_time(pid) or 0,
        boot_id=boot_id(),
        layers=layers,
        index_key=index_key,
        device=device,
    )


def living(layout: Layout) -> list[MountRecord]:
    """Records whose mount is mounted, there or elsewhere, and answered."""
    shown = read_mounts()
    return [
        record
        for record in mounts(layout).all().values()
        if is_shown(record, shown) and is_answered(record)
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
        if is_served(record)
        or is_shown(record, mounted)
        or any(is_mount_of(record, mount) for mount in mounted)
    ]


def forget_ended(layout: Layout) -> None:
    """Remove the records of mounts that are no more and whose servers have ended."""
    store, used = mounts(layout), {record.id for record in in_use(layout)}
    for record_id, record in store.all().items():
        if record_id not in used and not _is_being_made(record):
            store.remove(record_id)


def _is_being_made(record: MountRecord) -> bool:
    """A record comes before its mount is shown; its id begins with the pid that makes it."""
    maker = record.id.partition("-")[0]
    return record.boot_id == boot_id() and maker.isdecimal() and start_time(int(maker)) is not None


def is_served(record: MountRecord) -> bool:
    """Whether its server is alive; where the kernel serves alone there is none."""
    return record.boot_id == boot_id() and is_alive(record.pid, record.started)


def is_answered(record: MountRecord) -> bool:
    """Whether a read of its mount, if that is mounted, is answered."""
    return is_served(record) or (record.front == "erofs" and record.boot_id == boot_id())


def has_died(layout: Layout, mount: Mount) -> bool:
    """Whether the server of mount, or of what it is a bind of, is no more.

    By then its record may be gone, too: a new mount of the image has taken its place.
    """
    return mount.fstype == FSTYPES["fuse"] and not any(
        record.device == mount.device and is_served(record)
        for record in mounts(layout).all().values()
    )


def is_mount_of(record: MountRecord, mount: Mount) -> bool:
    """Whether the record speaks of this very mount, not of an earlier one at its place."""
    return (
        record.boot_id == boot_id()
        and _is_kind_of(record, mount)
        and record.device in (None, mount.device)
        and str(mount.mountpoint) == record.mountpoint
    )


def is_ours(mount: Mount) -> bool:
    """Whether clipfs made it, on this root or another: by mountinfo alone."""
    if mount.fstype == FSTYPES["erofs"]:
        return _IMAGE_INDEX.fullmatch(Path(mount.source).name) is not None
    return mount.fstype == FSTYPES["fuse"]


def is_shown(record: MountRecord, shown: Iterable[Mount]) -> bool:
    """Whether its mount is among these, at its place or elsewhere: a bind mount keeps it."""
    return record.boot_id == boot_id() and any(
        record.device == mount.device and _is_kind_of(record, mount) for mount in shown
    )


def forget_dead(layout: Layout, device: str) -> None:
    """Remove the kernel's records that speak of an earlier boot, or of device's earlier owner.

    Call it once device is a new mount's: the kernel gives numbers again, so that what nobody
    removed is bounded by how many mounts there were at a time.
    """
    store = mounts(layout)
    for record in store.all().values():
        if record.front == "erofs" and (record.device == device or record.boot_id != boot_id()):
            store.remove(record.id)


def _is_kind_of(record: MountRecord, mount: Mount) -> bool:
    if mount.fstype != FSTYPES[record.front]:
        return False
    return record.front == "fuse" or Path(mount.source).name.startswith(f"{record.index_key}.")
