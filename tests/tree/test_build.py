"""An image index is built by a worker process: whole and right, or not at all."""

import os
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer.index import CHUNK_DIGEST_BYTES, Entry, LayerIndex, make_index
from clipfs.tree.build import build_image_index
from clipfs.tree.reader import ImageIndex
from tests.support.entries import devices_of, file, image_of, link

DIGESTS = [one.digest for one in devices_of(3)]


def indexed(*entries: Entry) -> LayerIndex:
    return make_index(
        payload_bytes=1 << 20,
        diff_id="sha256:" + "0" * 64,
        chunk_digests=bytes(8 * CHUNK_DIGEST_BYTES),
        entries=entries,
    )


def layers(*one_each: list[Entry]) -> list[tuple[Digest, LayerIndex]]:
    return [(digest, indexed(*entries)) for digest, entries in zip(DIGESTS, one_each, strict=False)]


async def test_the_worker_writes_what_the_writer_makes(tmp_path: Path) -> None:
    content = [file(b"a", size=5, offset=512)], [link(b"b", b"a")], [file(b"c")]
    await build_image_index(layers(*content), tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == image_of(*content)
    with ImageIndex.open(tmp_path / "index") as index:
        assert index.layer_digests == tuple(DIGESTS)
    assert os.listdir(tmp_path) == ["index"]


async def test_layers_that_make_no_tree_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.CorruptImage, match="'nowhere'"):
        await build_image_index(layers([link(b"b", b"nowhere")]), tmp_path / "index")
    assert os.listdir(tmp_path) == []


async def test_an_older_index_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"older")
    with pytest.raises(errors.CorruptImage):
        await build_image_index(layers([link(b"b", b"nowhere")]), tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == b"older"
    await build_image_index(layers([file(b"a")]), tmp_path / "index")
    assert (tmp_path / "index").read_bytes() == image_of([file(b"a")])
