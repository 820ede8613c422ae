"""What the driver remembers on a disk: what is used, as it was written, and not without bound."""

import os
import time
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from clipfs.layer.seal import KeyRing
from csi.access.memory import FORGOTTEN_S, MAX_RECORD_BYTES, TIDY_EVERY, Memory
from tests.support.small_disk import needs_loop, small_disk

KEYS = KeyRing((b"key",))


class Note(msgspec.Struct, frozen=True):
    text: str


class Other(msgspec.Struct, frozen=True):
    number: int


def notes(folder: Path, keys: KeyRing = KEYS, *, most: int = 10) -> Memory[Note]:
    return Memory(folder, Note, keys, most=most)


def test_a_record_is_read_by_its_whole_key_alone(tmp_path: Path) -> None:
    notes(tmp_path / "notes").write(("a", "b"), Note("text"))
    again = notes(tmp_path / "notes")
    assert again.read(("a", "b")) == Note("text")
    assert [again.read(key) for key in [("a",), ("b", "a"), ("ab",)]] == [None] * 3
    again.forget(("a", "b"))
    again.forget(("a", "b"))
    assert again.read(("a", "b")) is None


def test_records_of_another_key_kind_or_build_are_none(tmp_path: Path) -> None:
    notes(tmp_path / "notes").write(("a",), Note("text"))
    assert notes(tmp_path / "notes", KeyRing((b"other",))).read(("a",)) is None
    assert Memory(tmp_path / "notes", Other, KEYS, most=10).read(("a",)) is None
    (tmp_path / "notes").rename(tmp_path / "others")
    assert notes(tmp_path / "others").read(("a",)) is None


def test_those_that_were_used_last_are_kept(tmp_path: Path) -> None:
    """How many there are is looked at with the first write of a process, and now and then."""
    for number in range(6):
        notes(tmp_path / "notes", most=4).write((str(number),), Note(str(number)))
        for path in (tmp_path / "notes").iterdir():  # an hour goes by
            status = path.stat()
            os.utime(path, (status.st_atime, status.st_mtime - 3600))
        assert notes(tmp_path / "notes").read(("0",)) == Note("0")
    memory = notes(tmp_path / "notes", most=4)
    assert [n for n in range(6) if memory.read((str(n),))] == [0, 3, 4, 5]


def test_what_nobody_used_for_months_is_forgotten(tmp_path: Path) -> None:
    notes(tmp_path / "notes").write(("a",), Note("a"))
    (path,) = (tmp_path / "notes").iterdir()
    os.utime(path, (0, time.time() - FORGOTTEN_S - 60))
    notes(tmp_path / "notes").write(("b",), Note("b"))
    memory = notes(tmp_path / "notes")
    assert [memory.read(("a",)), memory.read(("b",))] == [None, Note("b")]


def test_what_is_too_large_is_not_kept_nor_what_was_there_before(tmp_path: Path) -> None:
    memory = notes(tmp_path / "notes")
    memory.write(("a",), Note("old"))
    memory.write(("a",), Note("x" * MAX_RECORD_BYTES))
    assert memory.read(("a",)) is None
    assert list((tmp_path / "notes").iterdir()) == []


def test_their_number_is_bounded_in_one_process_too(tmp_path: Path) -> None:
    memory = notes(tmp_path / "notes", most=4)
    for number in range(TIDY_EVERY + 1):
        memory.write((str(number),), Note(str(number)))
    assert len(list((tmp_path / "notes").iterdir())) == 4


def test_what_was_never_finished_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    left = tmp_path / "notes/name.999999.1.ab.tmp"
    left.touch()
    notes(tmp_path / "notes").write(("a",), Note("text"))
    assert not left.exists()


@needs_loop
@pytest.mark.parametrize("refuses", ["full", "read-only"])
def test_a_disk_that_refuses_fails_nobody(refuses: str, tmp_path: Path) -> None:
    with small_disk(tmp_path, mebibytes=4) as disk:
        memory = notes(disk.folder / "notes")
        memory.write(("a",), Note("old"))
        disk.fill() if refuses == "full" else disk.make_read_only()
        with capture_logs() as logs:
            memory.write(("b",), Note("new" * 4096))
        assert [line["log_level"] for line in logs] == ["warning"]
        assert memory.read(("a",)) == Note("old")
        memory.forget(("a",))
        assert memory.read(("a",)) is None, "though a read-only disk keeps it"


def test_a_record_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    memory = notes(tmp_path / "notes")
    memory.write(("a",), Note("old"))
    memory.forget(("a",))
    memory.write(("a",), Note("new"))
    assert memory.read(("a",)) == Note("new")
