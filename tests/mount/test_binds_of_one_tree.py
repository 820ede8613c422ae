"""Binds of one tree where mounts are shared, as those below a kubelet's folder are."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.syscalls import bind_read_only


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder whose mounts are shared, with the trees `first` and `second` in it."""
    try:
        for place in (tmp_path, tmp_path / "first", tmp_path / "second"):
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "tree", place], check=True)
            subprocess.run(["mount", "--make-shared", place], check=True)
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", "--recursive", tmp_path], check=True)


def test_a_tree_over_one_volume_is_not_mounted_over_the_others_of_its_image(shared: Path) -> None:
    targets = [shared / f"volume-{number}" for number in range(4)]
    for tree in ("first", "second"):
        for target in targets:
            target.mkdir(exist_ok=True)
            bind_read_only(shared / tree, target)
    assert [len(mounts_at(target)) for target in targets] == [2, 2, 2, 2]
    assert len(mounts_at(shared / "first")) == 1
