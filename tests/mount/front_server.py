"""The FUSE front over an image index and payload files, in a process of its own.

    python -m tests.mount.front_server INDEX MOUNTPOINT PAYLOAD...

Prints a line when the tree is readable, the device's "major:minor"; ends when it is unmounted.
"""

import os
import sys
from pathlib import Path

import trio

from clipfs.mount import device
from clipfs.mount.front.fuse import serve_front
from clipfs.mount.mountinfo import mounts_at
from clipfs.tree.reader import ImageIndex


class Files:
    """Payloads in files: the smallest real `Payloads`."""

    def __init__(self, paths: list[str]) -> None:
        self._fds = [os.open(path, os.O_RDONLY) for path in paths]

    async def read(self, device: int, offset: int, length: int, *, follows: int) -> bytes:
        data = os.pread(self._fds[device], length, offset)
        assert len(data) == length
        return data


async def main(index_path: Path, mountpoint: Path, payloads: list[str]) -> None:
    fd = device.open_fuse()
    device.mount_fuse(fd, mountpoint, source="an/image:1")
    mounted = mounts_at(mountpoint)[-1].device
    device.raise_read_ahead(mounted)
    with ImageIndex.open(index_path) as index:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_front, index, Files(payloads), fd)
            print(mounted, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
