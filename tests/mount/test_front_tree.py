"""The FUSE front shows the tree of the image index, as the kernel's EROFS does, and no other."""

import errno
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfs.mount.mountinfo import mounts_at
from clipfs.tree.paths import resolve
from clipfs.tree.reader import ImageIndex
from tests.mount.served import Served, serving
from tests.support.machine import needs_fuse
from tests.support.tree_views import view_of_index, view_of_mount
from tests.support.trees import compare
from tests.tree.torture import MANY, SIZES, Torture, erofs_mounted, torture

pytestmark = needs_fuse


@pytest.fixture(scope="module")
def made() -> Torture:
    return torture()


def test_fuse_and_the_kernels_erofs_show_the_same_tree(
    served: Served, made: Torture, tmp_path: Path
) -> None:
    with erofs_mounted(made.image(), made.payloads, tmp_path / "erofs") as reference:
        result = compare(str(reference), str(served.mount))
        assert not result.differences, str(result)
        assert result.entries > MANY
        assert result.bytes > sum(SIZES)
        assert inode_numbers(reference) == inode_numbers(served.mount)


def inode_numbers(tree: Path) -> dict[str, int]:
    """By path below tree. Not by rglob, which stats links whose targets are too long to exist."""
    numbers = {".": os.lstat(tree).st_ino}
    for folder, folders, files in os.walk(tree):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            numbers[os.path.relpath(path, tree)] = os.lstat(path).st_ino
    return numbers


def test_the_mount_shows_what_the_reader_gives(served: Served) -> None:
    with ImageIndex.open(served.index) as index:
        view = {path: facts._replace(where=None) for path, facts in view_of_index(index).items()}
    assert view_of_mount(served.mount) == view


def test_inode_numbers_are_the_same_after_a_remount(
    served: Served, made: Torture, tmp_path: Path
) -> None:
    with serving(made.image(), made.payloads, tmp_path) as other:
        for name in ("", "sizes", "many/77-" + "x" * 17, "linked/across", "devices/fifo"):
            assert os.lstat(served.mount / name).st_ino == os.lstat(other.mount / name).st_ino


@pytest.mark.parametrize("size", SIZES)
def test_blocks_and_sizes_are_those_of_the_content(served: Served, size: int) -> None:
    found = os.stat(served.mount / f"sizes/{size}")
    assert (found.st_size, found.st_blocks, found.st_blksize) == (size, -(-size // 512), 4096)


def test_every_hard_link_counts(served: Served) -> None:
    one, across = os.stat(served.mount / "sizes/4097"), os.stat(served.mount / "linked/across")
    assert one.st_nlink == 4
    assert one.st_ino == os.stat(served.mount / "linked/2").st_ino
    assert across.st_nlink == 2
    folders = [one for one in os.scandir(served.mount) if one.is_dir(follow_symlinks=False)]
    assert os.stat(served.mount).st_nlink == 2 + len(folders)


def test_a_large_folder_can_be_listed_in_pieces_and_from_its_start_again(served: Served) -> None:
    with os.scandir(served.mount / "many") as entries:
        first = [next(entries).name for _ in range(5)]
        rest = [entry.name for entry in entries]
    assert len({*first, *rest}) == len(first) + len(rest) == MANY
    fd = os.open(served.mount / "many", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(fd) == os.listdir(fd) == first + rest
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [4096, 1_048_579])
def test_a_file_opened_with_o_direct_gives_its_bytes(
    served: Served, made: Torture, size: int
) -> None:
    entry = next(one for one in made.layers[0] if one.path == b"sizes/%d" % size)
    fd = os.open(served.mount / f"sizes/{size}", os.O_RDONLY | os.O_DIRECT)
    aligned = mmap.mmap(-1, 1 << 21)
    try:
        assert os.preadv(fd, [aligned], 0) == size
        assert aligned[:size] == made.content(entry)
    finally:
        os.close(fd)


def test_statfs_tells_the_images_size_and_no_free_space(served: Served) -> None:
    found = os.statvfs(served.mount)
    with ImageIndex.open(served.index) as index:
        assert found.f_blocks == -(-index.total_bytes // 4096)
        assert found.f_files == index.entry_count
    assert (found.f_bfree, found.f_bavail, found.f_ffree, found.f_namemax) == (0, 0, 0, 255)
    assert found.f_flag & os.ST_RDONLY


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param("absent", errno.ENOENT, id="absent"),
        pytest.param("sizes/1/x", errno.ENOTDIR, id="below-a-file"),
        pytest.param("n" * 256, errno.ENAMETOOLONG, id="256-bytes"),
        pytest.param("n" * 255, errno.ENOENT, id="255-bytes"),
    ],
)
def test_a_name_that_cannot_be_found_says_why(served: Served, name: str, number: int) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        os.lstat(served.mount / name)


def test_an_xattr_that_is_not_there_is_no_data(served: Served) -> None:
    for name in ("user.absent", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENODATA}\]"):
            os.getxattr(served.mount / "sizes/1", name)
    assert os.listxattr(served.mount / "sizes/1") == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda top: os.open(top / "new", os.O_CREAT | os.O_WRONLY),
    "open-for-writing": lambda top: os.open(top / "sizes/1", os.O_WRONLY),
    "open-for-both": lambda top: os.open(top / "sizes/1", os.O_RDWR),
    "truncate": lambda top: os.truncate(top / "sizes/1", 0),
    "open-truncating": lambda top: os.open(top / "sizes/1", os.O_RDONLY | os.O_TRUNC),
    "temporary-file": lambda top: os.open(top, os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda top: os.mkdir(top / "new"),
    "rmdir": lambda top: os.rmdir(top / "empty folder"),
    "unlink": lambda top: os.unlink(top / "sizes/1"),
    "rename": lambda top: os.rename(top / "sizes/1", top / "sizes/0"),
    "link": lambda top: os.link(top / "sizes/1", top / "new"),
    "symlink": lambda top: os.symlink("x", top / "new"),
    "mknod": lambda top: os.mknod(top / "new", 0o644),
    "fifo": lambda top: os.mkfifo(top / "new"),
    "chmod": lambda top: os.chmod(top / "sizes/1", 0o600),
    "chown": lambda top: os.chown(top / "sizes/1", 1, 1),
    "chown-of-a-symlink": lambda top: os.lchown(top / "link-1", 1, 1),
    "utime": lambda top: os.utime(top / "sizes/1", (1, 1)),
    "setxattr": lambda top: os.setxattr(top / "sizes/1", "user.x", b"1"),
    "removexattr": lambda top: os.removexattr(top / "xattrs/empty", "user.e"),
    "write-access": lambda top: _demand(os.access(top / "sizes/1", os.W_OK)),
}


def _demand(allowed: bool) -> None:
    if not allowed:
        raise OSError(errno.EROFS, "access says no")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_kind_of_write_is_refused_as_on_a_read_only_file_system(
    change: Callable[[Path], object], served: Served
) -> None:
    with pytest.raises(OSError, match=r"\[Errno 30\]"):
        change(served.mount)


def test_mountinfo_shows_a_read_only_mount_of_ours(served: Served) -> None:
    (mount,) = mounts_at(served.mount)
    assert (mount.fstype, mount.source, mount.device) == ("fuse.clip", "an/image:1", served.device)
    assert {"ro", "nosuid", "nodev", "noatime"} <= set(mount.options.split(","))


def test_the_kernel_reads_further_ahead_than_its_default(served: Served) -> None:
    bdi = Path(f"/sys/class/bdi/{served.device}")
    assert (bdi / "read_ahead_kb").read_text().strip() == "256"


@pytest.mark.parametrize(("name", "status"), [("sizes/1", 0), ("mode-0", 1), ("empty folder/x", 1)])
def test_other_users_see_the_tree_and_are_judged_by_its_modes(
    served: Served, name: str, status: int
) -> None:
    done = subprocess.run(
        ["cat", name], cwd=served.mount, user=1234, group=1234, extra_groups=[],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert (b"Permission denied" in done.stderr) == bool(status)


def test_paths_of_the_index_lead_to_the_inodes_of_the_mount(served: Served) -> None:
    with ImageIndex.open(served.index) as index:
        for name in ("sizes/512", "xattrs/acl", "names/..."):
            assert resolve(index, name.encode()) == os.lstat(served.mount / name).st_ino
