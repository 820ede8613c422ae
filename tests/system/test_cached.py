"""What has a cached file's name and is none: it is a miss, and the place is free again."""

import errno
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs.system.cached import open_cached, read_cached, replace
from tests.support.damage import DAMAGES, Damage, refusing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache/name"


def test_a_file_is_opened_and_its_absence_is_a_miss_without_a_warning(path: Path) -> None:
    with capture_logs() as lines:
        assert (open_cached(path), read_cached(path)) == (None, None)
        path.write_bytes(b"content")
        assert read_cached(path) == b"content"
    assert lines == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_file_is_a_miss_that_is_named_and_out_of_the_way(
    damage: Damage, path: Path
) -> None:
    path.write_bytes(b"content")
    damage(path)
    with capture_logs() as lines:
        assert open_cached(path) is None
    assert [line["path"] for line in lines if line["log_level"] == "warning"] == [str(path)]
    assert not os.path.lexists(path)


def test_what_a_folder_holds_is_kept(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("precious")
    assert open_cached(path) is None
    (kept,) = (tmp_path / "damaged").iterdir()
    assert (kept / "mine").read_text() == "precious"


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_a_file_that_the_disk_cannot_open_is_a_miss_and_goes(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"content")
    refusing(monkeypatch, path, number)
    assert read_cached(path) is None
    assert not path.exists()


def test_a_node_without_descriptors_loses_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"content")
    refusing(monkeypatch, path, errno.EMFILE)
    with pytest.raises(OSError, match="planted"):
        open_cached(path)
    assert path.exists()


def test_a_disk_that_keeps_the_damaged_file_is_a_miss_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keeps(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "planted")

    os.mkfifo(path)
    monkeypatch.setattr(Path, "unlink", keeps)
    assert read_cached(path) is None


def test_a_file_that_is_to_be_written_takes_the_place_of_what_is_none(path: Path) -> None:
    path.mkdir()
    fd = open_cached(path, os.O_RDWR | os.O_CREAT)
    assert fd is not None
    assert os.pwrite(fd, b"x", 0) == 1
    os.close(fd)
    assert path.read_bytes() == b"x"


def test_a_rename_takes_a_folders_place(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    (path / "mine").touch()
    (tmp_path / "fresh").write_bytes(b"content")
    replace(tmp_path / "fresh", path)
    assert path.read_bytes() == b"content"
