"""What programs do with mounted files beside reading: "Programs" of docs/semantics.md."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.both_fronts import FRONTS, on_both_fronts
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import run_registry

pytestmark = needs_fuse

SIZE = 300_000
CONTENT = bytes(range(250)) * (SIZE // 250)
F_OFD_SETLK = 37
IN_OPEN, IN_MODIFY = 0x20, 0x2

each_front = pytest.mark.parametrize("front", FRONTS)
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """An image with a file, a program and a folder, mounted by each front."""
    home = tmp_path_factory.mktemp("programs")
    (home / "tree/folder").mkdir(parents=True)
    (home / "tree/file").write_bytes(CONTENT)
    (home / "tree/program").write_text("#!/bin/sh\necho it runs\n")
    (home / "tree/program").chmod(0o755)
    images.write_layout(home / "oci", [images.layer(home / "tree", home / "tree.tar")])
    with run_registry(home / "registry") as registry:
        image = images.push(home / "oci", registry.address, "programs:1")
        node = Node(home / "root", ["--plain-http", registry.address])
        try:
            with on_both_fronts(node, image, home) as places:
                yield places
        finally:
            node.close()


@each_front
def test_a_file_can_be_mapped_and_written_to_in_memory_alone(
    front: str, mounted: dict[str, Path]
) -> None:
    with (mounted[front] / "file").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared:
            assert shared[:] == CONTENT
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[:4] = b"mine"
            assert private[:8] == b"mine" + CONTENT[4:8]
        with pytest.raises(PermissionError):
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert (mounted[front] / "file").read_bytes() == CONTENT


@each_front
def test_locks_hold_between_processes_of_a_node(front: str, mounted: dict[str, Path]) -> None:
    path = mounted[front] / "file"
    with path.open("rb") as one, path.open("rb") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        read_lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(one, F_OFD_SETLK, read_lock)
        fcntl.fcntl(other, F_OFD_SETLK, read_lock)
        with pytest.raises(OSError, match="Bad file descriptor"):  # a lock to write needs a writer
            fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


@each_front
def test_a_watch_is_told_of_opens_on_this_mount(front: str, mounted: dict[str, Path]) -> None:
    watching = LIBC.inotify_init1(os.O_NONBLOCK)
    try:
        path = os.fsencode(mounted[front])
        assert LIBC.inotify_add_watch(watching, path, IN_OPEN | IN_MODIFY) > 0
        with pytest.raises(BlockingIOError):
            os.read(watching, 4096)
        (mounted[front] / "file").read_bytes()
        assert struct.unpack_from("iI", os.read(watching, 4096))[1] == IN_OPEN
    finally:
        os.close(watching)


@each_front
def test_programs_can_be_run(front: str, mounted: dict[str, Path]) -> None:
    done = subprocess.run([mounted[front] / "program"], capture_output=True, text=True, check=True)
    assert done.stdout == "it runs\n"


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").touch(),
    "open to write": lambda root: (root / "file").open("r+b"),
    "truncate": lambda root: os.truncate(root / "file", 0),
    "remove": lambda root: (root / "file").unlink(),
    "rename": lambda root: (root / "file").rename(root / "other"),
    "link": lambda root: os.link(root / "file", root / "linked"),
    "make a folder": lambda root: (root / "new").mkdir(),
    "mode": lambda root: (root / "file").chmod(0o600),
    "owner": lambda root: os.chown(root / "file", 1, 1),
    "times": lambda root: os.utime(root / "file"),
    "attribute": lambda root: os.setxattr(root / "file", "user.new", b"x"),
}


@each_front
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_fails_as_on_a_read_only_file_system(
    change: str, front: str, mounted: dict[str, Path]
) -> None:
    with pytest.raises(OSError, match="Read-only") as refused:
        CHANGES[change](mounted[front])
    assert refused.value.errno == errno.EROFS


@each_front
def test_reading_changes_no_time(front: str, mounted: dict[str, Path]) -> None:
    before = (mounted[front] / "file").stat()
    (mounted[front] / "file").read_bytes()
    after = (mounted[front] / "file").stat()
    assert (before.st_atime_ns, before.st_ctime_ns) == (after.st_atime_ns, after.st_ctime_ns)
    assert after.st_atime_ns == after.st_ctime_ns == after.st_mtime_ns


@each_front
def test_a_full_file_system_is_what_df_sees(front: str, mounted: dict[str, Path]) -> None:
    said = os.statvfs(mounted[front])
    assert (said.f_bfree, said.f_bavail) == (0, 0)
    assert said.f_blocks * said.f_frsize >= SIZE
    assert said.f_flag & os.ST_RDONLY
