"""An image index is built by a worker process: whole and right, or not at all."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer.index import CHUNK_DIGEST_BYTES, Entry, LayerIndex, PackedEntries, make_index
from clipfs.tree import worker
from clipfs.tree.build import merging
from clipfs.tree.erofs import ROOT_NID
from clipfs.tree.reader import ImageIndex, Nid
from clipfs.tree.worker import ImageSize, raw_entry
from tests.support.entries import devices_of, file, image_of, link

DIGESTS = [one.digest for one in devices_of(3)]
LAYERS = [Layer(digest=one, size=1, media_type="x", diff_id=None) for one in DIGESTS]


def indexed(*entries: Entry) -> LayerIndex:
    return make_index(
        payload_bytes=1 << 20,
        diff_id="sha256:" + "0" * 64,
        chunk_digests=bytes(8 * CHUNK_DIGEST_BYTES),
        entries=PackedEntries(entries),
    )


async def build(output: Path, *one_each: list[Entry]) -> None:
    """The image index of layers with these entries."""
    async with merging(LAYERS[: len(one_each)]) as merger:
        for layer, entries in zip(LAYERS, one_each, strict=False):
            merger.give(layer, indexed(*entries))
        await merger.build(output)


async def test_the_worker_writes_what_the_writer_makes(tmp_path: Path) -> None:
    content = [file(b"a", size=5, offset=512)], [link(b"b", b"a")], [file(b"c")]
    await build(tmp_path / "index", *content)
    assert (tmp_path / "index").read_bytes() == image_of(*content)
    with ImageIndex.open(tmp_path / "index") as index:
        assert index.layer_digests == tuple(DIGESTS)
    assert os.listdir(tmp_path) == ["index"]


async def test_layers_that_make_no_tree_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.CorruptImage, match="'nowhere'"):
        await build(tmp_path / "index", [link(b"b", b"nowhere")])
    assert os.listdir(tmp_path) == []


async def test_a_layer_is_merged_before_the_next_one_is_indexed(tmp_path: Path) -> None:
    async with merging(LAYERS[:2]) as merger:
        merger.give(LAYERS[0], indexed(link(b"b", b"nowhere")))
        with pytest.raises(errors.CorruptImage, match="'nowhere'"):
            await merger.build(tmp_path / "index")


async def test_layers_come_in_any_order_and_one_may_come_twice(tmp_path: Path) -> None:
    first, second = [file(b"a", size=5, offset=512)], [file(b"a")]
    async with merging([LAYERS[0], LAYERS[1], LAYERS[0]]) as merger:
        merger.give(LAYERS[1], indexed(*second))
        merger.give(LAYERS[0], indexed(*first))
        await merger.build(tmp_path / "index")
    with ImageIndex.open(tmp_path / "index") as index:
        assert index.layer_digests == (DIGESTS[0], DIGESTS[1], DIGESTS[0])
        nid = index.lookup(Nid(ROOT_NID), b"a")
        assert nid is not None
        assert index.inode(nid).size == 5


async def test_an_older_index_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"older")
    with pytest.raises(errors.CorruptImage):
        await build(tmp_path / "index", [link(b"b", b"nowhere")])
    assert (tmp_path / "index").read_bytes() == b"older"
    await build(tmp_path / "index", [file(b"a")])
    assert (tmp_path / "index").read_bytes() == image_of([file(b"a")])


@pytest.mark.parametrize("limit", ["MAX_IMAGE_ENTRIES", "MAX_IMAGE_ENTRY_BYTES"])
def test_an_image_is_bounded_over_all_its_layers(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexes = [indexed(file(b"a"), file(b"b")), indexed(file(b"c"))]
    total = sum(
        one.entry_count if limit == "MAX_IMAGE_ENTRIES" else len(one.raw_entries) for one in indexes
    )
    for most in (total, total - 1):
        monkeypatch.setattr(worker, limit, most)
        size = ImageSize()
        size.add(indexes[0])
        refused = pytest.raises(errors.CorruptImage, match="first 2 layers have 3 entries")
        with refused if most < total else nullcontext():
            size.add(indexes[1])


@pytest.mark.parametrize(
    ("title", "path"),
    [
        pytest.param("model.bin", b"model.bin", id="a-name"),
        pytest.param("./a//b/model.bin", b"a/b/model.bin", id="a-path"),
        pytest.param("/etc/passwd", b"etc/passwd", id="absolute"),
        pytest.param("gewichte-\xe4", "gewichte-\xe4".encode(), id="not-ascii"),
    ],
)
def test_a_raw_layer_is_one_file_of_its_title(title: str, path: bytes) -> None:
    entry = raw_entry(title, indexed())
    assert (entry.path, entry.size, entry.mode, entry.payload_offset) == (path, 1 << 20, 0o644, 0)


@pytest.mark.parametrize(
    "title", ["", "/", "../x", "a/../../x", ".wh.x", "a/.wh..wh..opq", "x\0y", "n" * 256, "\ud800"]
)
def test_a_title_that_is_no_file_of_the_image_is_refused(title: str) -> None:
    with pytest.raises(errors.CorruptImage, match="title"):
        raw_entry(title, indexed())
