"""An image index is packed and unpacked: the same bytes, bounded."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from clipfs import errors
from clipfs.tree.packed import pack, unpack
from clipfs.tree.reader import ImageIndex
from clipfs.tree.superblock import RECEIVED
from tests.support.entries import file, image_of

IMAGE = image_of([file(b"name-%d" % number) for number in range(3000)])


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "output", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_what_is_unpacked_is_what_was_packed_and_marked_as_anothers(
    tmp_path: Path, output: int
) -> None:
    (tmp_path / "index").write_bytes(IMAGE)
    packed = pack(tmp_path / "index", limit_bytes=len(IMAGE))
    assert packed is not None
    assert len(packed) < len(IMAGE) / 5
    unpack(packed, output)
    found = os.pread(output, len(IMAGE) + 1, 0)
    assert found.replace(RECEIVED, bytes(len(RECEIVED)), 1) == IMAGE
    (tmp_path / "received").write_bytes(found)
    with ImageIndex.open(tmp_path / "index") as own, ImageIndex.open(tmp_path / "received") as got:
        assert (own.is_own, got.is_own) == (True, False)


def test_anothers_is_not_passed_on(tmp_path: Path, output: int) -> None:
    (tmp_path / "index").write_bytes(IMAGE)
    unpack(pack(tmp_path / "index", limit_bytes=len(IMAGE)) or b"", output)
    assert pack(tmp_path / "output", limit_bytes=len(IMAGE)) is None


def test_one_that_packs_to_more_than_may_be_shared_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(IMAGE)
    packed = pack(tmp_path / "index", limit_bytes=len(IMAGE))
    assert packed is not None
    assert pack(tmp_path / "index", limit_bytes=len(packed)) == packed
    assert pack(tmp_path / "index", limit_bytes=len(packed) - 1) is None


def test_one_that_was_evicted_meanwhile_is_not_packed(tmp_path: Path) -> None:
    assert pack(tmp_path / "index", limit_bytes=1 << 20) is None


def test_what_unpacks_to_more_than_a_merge_can_write_is_refused(
    output: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfs.tree.packed.MAX_IMAGE_INDEX_BYTES", 4 << 20)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    with pytest.raises(errors.CorruptImage, match="over 4194304 bytes"):
        unpack(bomb, output)
    assert os.fstat(output).st_size <= 4 << 20


def test_rubbish_is_corrupt(output: int) -> None:
    with pytest.raises(errors.CorruptImage, match="image index"):
        unpack(b"no frame of zstd", output)
