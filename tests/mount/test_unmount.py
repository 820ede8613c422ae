"""Unmounting asks mountinfo, never the mount: it is instant whatever the server does."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.mount import records, syscalls
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.unmount import unmount
from tests.mount.served import Served, is_answered, serving
from tests.support.entries import file, image_of
from tests.support.machine import needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "root")
    found.make()
    return found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Served]:
    image = image_of([file(b"sizes/1", size=1, offset=512)], payload_bytes=1024)
    (tmp_path / "served").mkdir()
    with serving(image, [bytes(1024)], tmp_path / "served") as found:
        yield found


def test_what_is_not_mounted_is_unmounted_already(layout: Layout, tmp_path: Path) -> None:
    unmount(layout, tmp_path, wait_s=0)
    unmount(layout, tmp_path / "absent", wait_s=0)


def test_twice_is_as_good_as_once(layout: Layout, small: Served) -> None:
    unmount(layout, small.mount, wait_s=0)
    assert mounts_at(small.mount) == []
    unmount(layout, small.mount, wait_s=0)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_hangs_or_is_dead_does_not_hang_it(
    how: int, layout: Layout, small: Served
) -> None:
    os.kill(small.pid, how)
    try:
        assert is_answered(lambda: unmount(layout, small.mount, wait_s=0))
    finally:
        os.kill(small.pid, signal.SIGCONT)
    assert mounts_at(small.mount) == []


def test_a_symlink_to_the_mount_point_will_do(
    layout: Layout, small: Served, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(small.mount)
    unmount(layout, tmp_path / "link", wait_s=0)
    assert mounts_at(small.mount) == []


def test_somebody_elses_mount_is_left_alone(layout: Layout, tmp_path: Path) -> None:
    syscalls.mount("tmpfs", tmp_path, "tmpfs", 0, "")
    try:
        with pytest.raises(errors.InvalidInput, match="mount of tmpfs, not one of clipfs"):
            unmount(layout, tmp_path, wait_s=0)
        assert len(mounts_at(tmp_path)) == 1
    finally:
        syscalls.detach(tmp_path)


def test_ours_on_top_of_somebody_elses_goes_alone(
    layout: Layout, small: Served, tmp_path: Path
) -> None:
    (tmp_path / "place").mkdir()
    syscalls.mount("tmpfs", tmp_path / "place", "tmpfs", 0, "")
    try:
        syscalls.bind_read_only(small.mount, tmp_path / "place")
        unmount(layout, tmp_path / "place", wait_s=0)
        assert [mount.fstype for mount in mounts_at(tmp_path / "place")] == ["tmpfs"]
    finally:
        syscalls.detach(tmp_path / "place")


def test_the_record_of_a_dead_server_goes_with_its_mount(layout: Layout, small: Served) -> None:
    record = records.new_mount(
        image="i", digest="d", mountpoint=small.mount, layers=(), index_key="k"
    )
    dead = msgspec.structs.replace(record, started=1, device=small.device)
    records.mounts(layout).write(dead.id, dead)
    unmount(layout, small.mount, wait_s=0)
    assert records.mounts(layout).all() == {}


def test_a_root_that_has_become_read_only_keeps_no_mount(layout: Layout, small: Served) -> None:
    record = records.new_mount(
        image="i", digest="d", mountpoint=small.mount, layers=(), index_key="k"
    )
    dead = msgspec.structs.replace(record, started=1, device=small.device)
    records.mounts(layout).write(dead.id, dead)
    syscalls.bind_read_only(layout.root, layout.root)
    try:
        unmount(layout, small.mount, wait_s=0)
        assert mounts_at(small.mount) == []
        unmount(layout, small.mount, wait_s=0)
        assert list(records.mounts(layout).all()) == [dead.id]
    finally:
        syscalls.detach(layout.root)
    unmount(layout, small.mount, wait_s=0)
    assert records.mounts(layout).all() == {}
