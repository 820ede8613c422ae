"""A mount point is made if absent, must be empty and no mount, and goes if nothing came of it."""

import errno
import os
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.mount import syscalls
from clipfs.mount.mountpoint import check_mountpoint, made_mountpoint, real_mountpoint
from tests.mount.served import Served, is_answered
from tests.support.machine import needs_fuse


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "to-empty").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("absent")
    return tmp_path


@pytest.mark.parametrize("name", ["empty", "absent", "absent/below", "empty/below", "to-empty/x"])
def test_an_empty_or_absent_folder_will_do(place: Path, name: str) -> None:
    check_mountpoint(place / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("full", "is not empty", id="not-empty"),
        pytest.param("full/x", "is not a folder", id="file"),
        pytest.param("full/x/y", "is not a folder", id="below-a-file"),
        pytest.param("n" * 300, "name too long", id="name-too-long"),
        pytest.param("\udcff", "is not UTF-8", id="no-text"),
        pytest.param("/proc", "is a mount already; `clipfs unmount /proc`", id="mount"),
    ],
)
def test_anything_else_is_refused_with_its_reason(place: Path, name: str, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"(?i){message}"):
        check_mountpoint(place / name)


def test_it_and_its_parents_are_made_and_stay_when_all_went_well(place: Path) -> None:
    with made_mountpoint(place / "a/b/c"):
        assert (place / "a/b/c").is_dir()
    assert (place / "a/b/c").is_dir()


@pytest.mark.parametrize("name", ["a/b/c", "empty/b", "full/b", "empty"])
@pytest.mark.parametrize("error", [errors.NodeFault("no"), KeyboardInterrupt(), OSError(5, "no")])
def test_only_what_was_made_goes_when_nothing_came_of_it(
    place: Path, name: str, error: BaseException
) -> None:
    before = sorted(place.rglob("*"))
    with pytest.raises(type(error)), made_mountpoint(place / name):
        raise error
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("name", ["a/b/" + "n" * 300, "full/x/y"])
def test_what_cannot_be_made_leaves_nothing_half_made(place: Path, name: str) -> None:
    before = sorted(place.rglob("*"))
    with pytest.raises(errors.InvalidInput, match="mount point"), made_mountpoint(place / name):
        raise AssertionError("the block must not run")
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, errors.DiskFull), (errno.EIO, errors.NodeFault)],
    ids=["full", "broken"],
)
def test_a_disk_that_refuses_is_not_the_callers_mistake(
    number: int, kind: type[errors.ClipError], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> None:
        if path.name != "new":
            raise FileExistsError
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = f"{place / 'new'}: {os.strerror(number)}"
    with pytest.raises(kind, match=said), made_mountpoint(place / "new"):
        pass


@pytest.mark.parametrize(
    ("given", "real"),
    [
        ("empty", "empty"),
        ("empty/../full/", "full"),
        (".", ""),
        ("to-empty", "empty"),
        ("to-empty/x", "empty/x"),
        ("to-empty/..", ""),
        ("dangling", "absent"),
    ],
)
def test_a_mount_point_is_named_as_mountinfo_will_name_it(
    place: Path, given: str, real: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for path in (Path(given), place / given, Path(f"//{place}/{given}")):
        assert os.fspath(real_mountpoint(path)) == os.path.join(
            os.path.realpath(place), real
        ).rstrip("/")


@needs_fuse
def test_a_mount_whose_server_says_nothing_is_named_and_refused_at_once(served: Served) -> None:
    def refused() -> None:
        with pytest.raises(errors.InvalidInput, match="mount already"):
            check_mountpoint(real_mountpoint(served.mount))

    with served.frozen():
        assert is_answered(refused)


@needs_fuse
def test_a_bind_mount_is_read_only_without_devices_and_goes_by_itself(
    served: Served, tmp_path: Path
) -> None:
    syscalls.bind_read_only(served.mount, tmp_path)
    assert (tmp_path / "sizes/1").read_bytes() == (served.mount / "sizes/1").read_bytes()
    assert syscalls.detach(tmp_path)
    assert not syscalls.detach(tmp_path)
    assert os.listdir(tmp_path) == []
    assert (served.mount / "sizes").is_dir()


@needs_fuse
def test_a_mount_that_cannot_be_made_is_a_node_fault_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(errors.NodeFault, match=r"mount fuse.clip at .*: Invalid argument"):
        syscalls.mount("x", tmp_path, "fuse.clip", 0, "fd=-1")
    with pytest.raises(errors.NodeFault, match=r"bind .*: No such file"):
        syscalls.bind_read_only(tmp_path / "absent", tmp_path)
