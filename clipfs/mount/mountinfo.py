"""What is mounted where, from /proc/self/mountinfo alone: stat(2) on a dead mount waits.

Source: proc_pid_mountinfo(5).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo. device is "major:minor", the same for every bind of a mount."""

    mount_id: int
    device: str
    root: str
    mountpoint: Path
    options: str
    fstype: str
    source: str


def read_mounts() -> list[Mount]:
    """Every mount of this process's namespace, the topmost of a mount point last."""
    return list(parse(Path("/proc/self/mountinfo").read_bytes()))


def mounts_at(mountpoint: Path) -> list[Mount]:
    """What is mounted at just this path, the topmost last; mountpoint must be absolute."""
    wanted = Path(os.path.normpath(mountpoint))
    return [mount for mount in read_mounts() if mount.mountpoint == wanted]


def parse(data: bytes) -> Iterator[Mount]:
    """Lines that are not understood are passed over: a new kernel may say more."""
    for line in data.split(b"\n"):  # nothing else ends a line: names may hold \r
        before, separator, after = line.partition(b" - ")
        fields, last = before.split(b" "), after.split(b" ")
        if not separator or len(fields) < 6 or len(last) < 2 or not fields[0].isdigit():
            continue
        yield Mount(
            mount_id=int(fields[0]),
            device=os.fsdecode(fields[2]),
            root=_unescaped(fields[3]),
            mountpoint=Path(_unescaped(fields[4])),
            options=os.fsdecode(fields[5]),
            fstype=_unescaped(last[0]),
            source=_unescaped(last[1]),
        )


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
