"""mount(2) and umount2(2), called by us: mount(8) would add helpers and loop devices.

Errors are NodeFault with the call and its reason. Source: mount(2), umount(2), Linux
include/uapi/linux/mount.h.
"""

import ctypes
import errno
import os
from pathlib import Path

from clipfs import errors

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_BIND = 0x1000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, fstype: str, flags: int, data: str) -> None:
    """mount(2); NodeFault says what could not be mounted where, and why."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data),
    )
    if result != 0:
        raise _fault(f"mount {fstype} at {target}")


def bind_read_only(source: Path, target: Path) -> None:
    """Show source at target as well: read-only, no devices, no setuid.

    A bind takes its flags in a second call only; if that fails, nothing stays mounted.
    """
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) != 0:
        raise _fault(f"bind {source} to {target}")
    flags = ctypes.c_ulong(MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    if _libc.mount(None, os.fsencode(target), None, flags, None) != 0:
        fault = _fault(f"make {target} read-only")
        detach(target)
        raise fault


def detach(target: Path) -> bool:
    """umount2(MNT_DETACH): instant, also on a dead mount. False if nothing is mounted there."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return False
    raise _fault(f"unmount {target}")


def _fault(what: str) -> errors.NodeFault:
    return errors.NodeFault(f"{what}: {os.strerror(ctypes.get_errno())}")
