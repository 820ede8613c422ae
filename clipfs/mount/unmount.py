"""Takes a mount down: by mountinfo and umount2(MNT_DETACH), never by looking into it.

A server whose mount is gone ends by itself. One that does not, because somebody still holds
a file of the mount open, is left to serve that. Where the kernel serves alone there is none.
"""

from pathlib import Path

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.layer.use import touch
from clipfs.log import log
from clipfs.mount import records
from clipfs.mount.mountinfo import mounts_at, read_mounts
from clipfs.mount.mountpoint import real_mountpoint
from clipfs.mount.records import MountRecord
from clipfs.mount.syscalls import detach
from clipfs.system.processes import wait_for_end


def unmount(layout: Layout, mountpoint: Path, *, wait_s: float) -> None:
    """Unmount what clipfs has mounted at mountpoint; nothing there is done already.

    wait_s  how long to wait for the server's end, once its mount has gone
    Raises  InvalidInput if somebody else's file system is mounted there
    """
    place = real_mountpoint(mountpoint)
    here = mounts_at(place)
    if here and not records.is_ours(here[-1]):
        raise errors.InvalidInput(
            f"{place} is a mount of {here[-1].fstype}, not one of clipfs; umount it yourself"
        )
    went = set()
    while here and records.is_ours(here[-1]):
        detach(place)
        went.add(here.pop().device)
    for record in _records_at(layout, place):
        is_shown = records.is_shown(record, read_mounts())
        if record.device in went and records.is_served(record) and not is_shown:
            ended = wait_for_end(record.pid, record.started, within_s=wait_s)
            if not ended:
                log.info("the server goes on for open files, or to store layers", pid=record.pid)
        if record.device in went:
            touch(layout, layers=record.layers, image=record.index_key)
        if not (is_shown if record.front == "erofs" else records.is_served(record)):
            records.mounts(layout).remove(record.id)


def _records_at(layout: Layout, place: Path) -> list[MountRecord]:
    return [
        record
        for record in records.mounts(layout).all().values()
        if record.mountpoint == str(place)
    ]
