"""How many requests a FUSE connection has in flight, as the kernel counts them.

Source: Linux Documentation/filesystems/fuse, "Control filesystem".
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_flight(mountpoint: Path, control: Path) -> Iterator[Callable[[], int]]:
    """A function that counts the requests which mountpoint's server has not answered.

    control  an empty folder, where the kernel's control file system is mounted for the block
    """
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", str(control)], check=True)
    waiting = control / str(os.minor(_device(mountpoint))) / "waiting"
    try:
        yield lambda: int(waiting.read_text())
    finally:
        subprocess.run(["umount", str(control)], check=True)


def _device(mountpoint: Path) -> int:
    """From mountinfo: stat(2) of a mount may ask its server."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        fields = line.split()
        if fields[4] == str(mountpoint):
            major, minor = map(int, fields[2].split(":"))
            return os.makedev(major, minor)
    raise LookupError(f"{mountpoint} is not a mount")
