"""An idmapped copy of a mount, as runtimes make one for a pod with `hostUsers: false`.

Source: mount_setattr(2), open_tree(2).
"""

import ctypes
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfs.mount import syscalls

SHIFT = 100_000
"""Added to every uid and gid."""

_libc = ctypes.CDLL(None, use_errno=True)
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 1, 4
MOUNT_ATTR_IDMAP = 0x100000


@contextmanager
def idmapped(source: Path, target: Path) -> Iterator[None]:
    """source's mount at target as well, with its owners shifted; OSError if it refuses."""
    command = ["unshare", "--user", "sh", "-c", "echo ready; read _"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        for ids in ("uid_map", "gid_map"):
            Path(f"/proc/{other.pid}/{ids}").write_text(f"0 {SHIFT} {(1 << 32) - 1 - SHIFT}\n")
        namespace = os.open(f"/proc/{other.pid}/ns/user", os.O_RDONLY)
        tree = _call(OPEN_TREE, AT_FDCWD, os.fsencode(source), OPEN_TREE_CLONE)
        try:
            attributes = struct.pack("<QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
            _call(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
            where = os.fsencode(target)
            _call(MOVE_MOUNT, tree, b"", AT_FDCWD, where, MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
            os.close(namespace)
    try:
        yield
    finally:
        syscalls.detach(target)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
