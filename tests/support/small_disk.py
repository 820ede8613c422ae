"""A disk of a few MiB that can be filled to its last block: ext4 in a file, mounted by loop."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="needs root and loop"
)


class SmallDisk:
    """An ext4 of its own at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, but: int = 0) -> None:
        """Take every free block but for so many bytes."""
        fd = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (1 << 20, 4096):
                self._fill(fd, size)
            os.ftruncate(fd, os.fstat(fd).st_size - but)
            os.fsync(fd)
        finally:
            os.close(fd)

    def free(self) -> None:
        """Give back all that `fill` took."""
        self._filler.unlink()

    def make_read_only(self) -> None:
        """As the kernel does after an error of the disk, though files are open for writing."""
        device = Path(f"/sys/dev/block/{_device_of(self.folder)}").resolve().name
        assert device.startswith("loop")
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test")

    def _fill(self, fd: int, size: int) -> None:
        try:
            while os.write(fd, bytes(size)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def _device_of(folder: Path) -> str:
    number = os.stat(folder).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


@contextmanager
def small_disk(home: Path, *, mebibytes: int) -> Iterator[SmallDisk]:
    home.mkdir(parents=True, exist_ok=True)
    image, folder = home / "disk.ext4", home / "disk"
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        # unchecked: a test that cleans up below home has unmounted it
        subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)
