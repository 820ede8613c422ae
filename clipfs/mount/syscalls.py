"""mount(2), its newer kin and umount2(2), called by us: mount(8) would add loop devices.

Errors are NodeFault with the call and its reason. Source: mount(2), umount(2), Linux
include/uapi/linux/mount.h; Documentation/filesystems/mount_api.rst for `detached_mount`.
"""

import ctypes
import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipfs import errors

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_BIND = 0x1000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432  # the same on every machine
_CLOEXEC = 1  # of fsopen and fsmount
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # commands of fsconfig
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOATIME = 0x1, 0x2, 0x4, 0x10
_F_EMPTY_PATH = 0x4  # of move_mount
_AT_FDCWD = -100

_CONTEXT = re.compile(r"[\w.-]+(:[\w.-]+){2}(:[\w.,:-]+)?", re.ASCII)
"""No quote, so that it can stand in one, and a level may hold commas."""

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
    Binds of a shared mount are its peers: what is mounted over one would come over all, and
    over each of them again. Of a private mount each is shared with its own copies alone.
    """
    _libc.mount(None, os.fsencode(source), None, MS_PRIVATE, None)  # a plain folder: it is none
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) != 0:
        raise _fault(f"bind {source} to {target}")
    flags = ctypes.c_ulong(MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    if _libc.mount(None, os.fsencode(target), None, flags, None) != 0:
        fault = _fault(f"make {target} read-only")
        detach(target)
        raise fault


@contextmanager
def detached_mount(fstype: str, settings: Sequence[tuple[str, str]]) -> Iterator[int]:
    """A mount that is nowhere yet, read-only, no devices, no setuid: a descriptor of its root.

    `attach` shows it; one that was not attached is gone after the block, or with us.

    settings  what mount(2) takes as one string of one page: here each is a string of its own
    """
    context = _call(f"open {fstype}", _FSOPEN, fstype.encode(), _CLOEXEC)
    try:
        try:
            _call("ro", _FSCONFIG, context, _SET_FLAG, b"ro", None, 0)
            for key, value in settings:
                words = (key.encode(), os.fsencode(value), 0)
                _call(f"{key}={value}", _FSCONFIG, context, _SET_STRING, *words)
            _call("create", _FSCONFIG, context, _CREATE, None, None, 0)
            flags = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOATIME
            tree = _call("mount", _FSMOUNT, context, _CLOEXEC, flags)
        except errors.NodeFault as fault:
            said = "; ".join([str(fault), *_messages(context)])
            raise errors.NodeFault(f"mount {fstype}: {said}") from None
    finally:
        os.close(context)
    try:
        yield tree
    finally:
        os.close(tree)


def attach(tree: int, target: Path) -> None:
    """Show a detached mount at target."""
    words = (b"", _AT_FDCWD, os.fsencode(target), _F_EMPTY_PATH)
    _call(f"mount at {target}", _MOVE_MOUNT, tree, *words)


def check_context(context: str | None, *, filesystems: Path = Path("/proc/filesystems")) -> None:
    """That an SELinux context can be asked for at all: the kernel's own word is `EINVAL`.

    Raises  InvalidInput if it is none, NodeFault if the kernel has no SELinux
    """
    if context is None:
        return
    if not _CONTEXT.fullmatch(context):
        raise errors.InvalidInput(
            f"--mount-context {context[:100]!r}: write user:role:type or user:role:type:level"
        )
    if "selinuxfs" not in filesystems.read_text():
        raise errors.NodeFault("--mount-context: this kernel has no SELinux; leave it out")


def detach(target: Path) -> bool:
    """umount2(MNT_DETACH): instant, also on a dead mount. False if nothing is mounted there."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return False
    raise _fault(f"unmount {target}")


def _call(what: str, number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise _fault(what)
    return result


def _messages(context: int) -> Iterator[str]:
    """What the file system itself has to say of its refusal."""
    try:
        while line := os.read(context, 1024):
            yield os.fsdecode(line).strip()[2:]
    except OSError:  # ENODATA ends them
        return


def _fault(what: str) -> errors.NodeFault:
    return errors.NodeFault(f"{what}: {os.strerror(ctypes.get_errno())}")
