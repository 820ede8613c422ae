"""Sparse files in an image index: the same bytes by the reader and by the kernel, few of them."""

import itertools
import os
import struct
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.sparse import SparseMap
from clipfs.tree import sparse as tree_sparse
from clipfs.tree.paths import resolve
from clipfs.tree.reader import ImageIndex, Inode
from clipfs.tree.sparse import layout_of, sparse_chunk_bits
from tests.support.entries import file, link, whiteout
from tests.support.machine import needs_fuse
from tests.support.sparse_layers import SparseLayer, sparse_file_of, sparse_image
from tests.tree.torture import erofs_mounted

MIB = 1 << 20
Runs = list[tuple[int, int]]
LENGTHS = st.sampled_from([1, 511, 512, 4096, 5000, 70_000]) | st.integers(1, 9000)


@st.composite
def sparse_files(draw: st.DrawFn) -> tuple[int, Runs]:
    runs: Runs = []
    end = draw(st.sampled_from([0, 1, 4096, 100_000]))
    for length, gap in draw(st.lists(st.tuples(LENGTHS, LENGTHS), max_size=12)):
        runs.append((end, length))
        end += length + gap
    return max(end - draw(st.sampled_from([0, 1])), 1), runs


def made(files: list[tuple[int, Runs]]) -> SparseLayer:
    layer = SparseLayer()
    for number, (size, runs) in enumerate(files):
        kept = [run for run in runs if run[0] + run[1] <= size]
        layer.add(b"%d" % number, size, kept)
    return layer


def inode_of(index: ImageIndex, path: bytes) -> Inode:
    nid = resolve(index, path)
    assert nid is not None
    return index.inode(nid)


def read(index: ImageIndex, path: bytes, devices: list[bytes], offset: int, length: int) -> bytes:
    pieces = index.pieces(inode_of(index, path), offset, length)
    for one, other in itertools.pairwise(pieces):  # what lies together is asked for together
        assert one.device != other.device or one.offset + one.length != other.offset
    return b"".join(
        bytes(length) if device is None else devices[device][offset : offset + length]
        for device, offset, length in pieces
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(sparse_files(), min_size=1, max_size=4), st.data())
def test_the_reader_finds_every_byte_and_every_hole(
    files: list[tuple[int, Runs]], data: st.DataObject
) -> None:
    layer = made(files)
    index = ImageIndex(sparse_image([layer]))
    devices = [bytes(layer.payload)]
    if layer.layout is not None:
        devices.append(sparse_file_of(layer))
        assert len(devices[1]) == layer.layout.size_bytes
        assert layer.layout.data_bytes == sum(run.length for run in layer.layout.runs())
    for entry in layer.entries:
        expected = layer.content(entry)
        assert inode_of(index, entry.path).size == entry.size
        assert read(index, entry.path, devices, 0, entry.size) == expected
        start = data.draw(st.integers(0, entry.size - 1))
        size = data.draw(st.integers(1, entry.size - start))
        assert read(index, entry.path, devices, start, size) == expected[start : start + size]


@settings(max_examples=60, deadline=None)
@given(st.lists(sparse_files(), min_size=1, max_size=3), st.data())
def test_what_stands_in_any_part_of_a_sparse_file_is_found_in_the_payload(
    files: list[tuple[int, Runs]], data: st.DataObject
) -> None:
    layer = made([*files, (10, [(3, 1)])])
    assert layer.layout is not None
    whole = sparse_file_of(layer)
    start = data.draw(st.integers(512, len(whole) - 1))
    size = data.draw(st.integers(1, len(whole) - start))
    found = bytearray(size)
    for run in layer.layout.within(start, size):
        assert run.length > 0
        source = layer.payload[run.payload_offset :][: run.length]
        found[run.offset - start : run.offset - start + run.length] = source
    assert found == whole[start : start + size]


@needs_fuse
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(sparse_files(), min_size=1, max_size=4))
def test_the_kernel_shows_every_byte_and_every_hole(
    tmp_path: Path, files: list[tuple[int, Runs]]
) -> None:
    layers = [made([(9, [(0, 5)])]), SparseLayer(), made(files)]
    layers[1].entries.append(file(b"plain", offset=0, size=512))
    payloads = [bytes(layer.payload) for layer in layers]
    payloads += [sparse_file_of(layer) for layer in layers if layer.layout is not None]
    home = tmp_path / str(len(list(tmp_path.iterdir())))
    with erofs_mounted(sparse_image(layers), payloads, home) as mount:
        for entry in layers[2].entries:
            path = mount / os.fsdecode(entry.path)
            assert path.stat().st_size == entry.size
            assert path.read_bytes() == layers[2].content(entry)
        assert (mount / "plain").read_bytes() == payloads[1][:512]


@needs_fuse
def test_the_kernel_shows_a_terabyte_with_a_byte_in_it(tmp_path: Path) -> None:
    layer = SparseLayer()
    layer.add(b"t", 1 << 40, [(1 << 39, 1)])
    layer.add(b"hole", 1 << 44, [])
    assert layer.layout is not None
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", layer.layout.size_bytes)
    (run,) = layer.layout.runs()
    with (tmp_path / "sparse").open("r+b") as sparse:
        os.pwrite(sparse.fileno(), layer.payload[run.payload_offset :][:1], run.offset)
    image = sparse_image([layer])
    assert len(image) < 8192
    with erofs_mounted(image, [bytes(layer.payload), tmp_path / "sparse"], tmp_path / "m") as mount:
        assert (mount / "t").stat().st_size == 1 << 40
        assert (mount / "hole").stat().st_size == 1 << 44
        with (mount / "t").open("rb") as shown:
            around = os.pread(shown.fileno(), 3, (1 << 39) - 1)
            assert around == bytes(1) + layer.payload[run.payload_offset :][:1] + bytes(1)
            assert os.pread(shown.fileno(), 100, (1 << 40) - 99) == bytes(99)
        with (mount / "hole").open("rb") as shown:
            assert os.pread(shown.fileno(), 9, (1 << 44) - 5) == bytes(5)
    assert os.stat(tmp_path / "sparse").st_blocks * 512 <= 8192


@needs_fuse
def test_the_kernel_tells_holes_and_takes_a_layer_that_comes_twice(tmp_path: Path) -> None:
    layer = made([(50 * MIB, [(10 * MIB, 5000), (30 * MIB, MIB)])])
    again = SparseLayer(layer.entries, layer.maps, layer.payload)
    for name, data in (("payload", bytes(layer.payload)), ("sparse", sparse_file_of(layer))):
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in ("payload", "payload", "sparse", "sparse")]
    with erofs_mounted(sparse_image([layer, again]), files, tmp_path / "m") as mount:
        assert (mount / "0").read_bytes() == layer.content(layer.entries[0])
        fd = os.open(mount / "0", os.O_RDONLY)
        try:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 10 * MIB
            assert os.lseek(fd, 10 * MIB, os.SEEK_HOLE) < 11 * MIB
            assert os.lseek(fd, 12 * MIB, os.SEEK_DATA) > 29 * MIB
        finally:
            os.close(fd)


def test_hard_links_share_a_sparse_file_and_whiteouts_hide_it() -> None:
    lower, upper = made([(50_000, [(40_000, 100)]), (60_000, [(0, 7)])]), SparseLayer()
    kept, gone = lower.entries
    upper.entries += [link(b"linked", kept.path), whiteout(gone.path)]
    index = ImageIndex(sparse_image([lower, upper]))
    devices = [bytes(lower.payload), bytes(upper.payload), sparse_file_of(lower)]
    assert inode_of(index, b"linked") == inode_of(index, kept.path)
    assert inode_of(index, kept.path).nlink == 2
    assert read(index, b"linked", devices, 0, 50_000) == lower.content(kept)
    assert resolve(index, gone.path) is None
    assert (index.entry_count, index.total_bytes) == (2, 50_000)


def test_a_sparse_file_may_replace_another_of_its_own_layer() -> None:
    layer = made([(50_000, [(40_000, 100)])])
    later = layer.add(b"0", 70_000, [(0, 1), (60_000, 9)])
    index = ImageIndex(sparse_image([layer]))
    devices = [bytes(layer.payload), sparse_file_of(layer)]
    assert read(index, b"0", devices, 0, 70_000) == layer.content(later)


def test_layers_and_their_sparse_files_are_told_apart_by_the_device_table() -> None:
    layers = [SparseLayer(), made([(50_000, [(40_000, 100)])]), SparseLayer(), made([(9, [])])]
    index = ImageIndex(sparse_image(layers))
    assert index.layer_digests == tuple(f"sha256:{number:064x}" for number in range(4))
    assert index.sparse_layers == (1,)


@pytest.mark.parametrize("run_count", [1, 2, 100, 1 << 19])
@pytest.mark.parametrize("size", [1, 4096, 1 << 20, (1 << 30) + 1, 1 << 40, 1 << 44])
def test_a_chunk_index_grows_with_the_map_not_with_the_file(size: int, run_count: int) -> None:
    bits = sparse_chunk_bits(size, run_count)
    assert bits >= 12
    assert -(-size >> bits) <= 256 + 4 * run_count
    assert bits == 12 or -(-size >> bits) > 128 + 2 * run_count  # and no coarser than needed


def test_sparse_files_beyond_what_the_kernel_can_address_are_refused() -> None:
    run = struct.pack("<QQ", 0, 1)
    fits = [SparseMap(1 << 44, 512 * n, run) for n in range(1, 32)]
    assert layout_of(fits) is not None
    with pytest.raises(errors.CorruptImage, match="blocks"):
        layout_of([*fits, SparseMap(1 << 44, 512 * 99, run)])


def many_maps(count: int, size: int) -> list[SparseMap]:
    """Of files with eight runs each, all over them."""
    runs = struct.pack("<16Q", *(n for at in range(8) for n in (at * size // 8, 100)))
    return [SparseMap(size, 512 + 1024 * at, runs) for at in range(count)]


def test_a_layout_takes_memory_for_its_runs_alone_not_for_its_chunks() -> None:
    maps = many_maps(2000, 1 << 20)
    tracemalloc.start()
    try:
        layout = layout_of(maps)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layout is not None
    assert 24 * 16_000 < kept < most < 40 * 16_000


def test_sparse_files_of_a_layer_are_bounded_by_their_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = many_maps(4, 1 << 20)
    monkeypatch.setattr(tree_sparse, "MAX_LAYER_CHUNKS", 4 * 256)
    assert layout_of(maps) is not None
    monkeypatch.setattr(tree_sparse, "MAX_LAYER_CHUNKS", 4 * 256 - 1)
    with pytest.raises(errors.CorruptImage, match="over 1023 chunks; spread them over more layers"):
        layout_of(maps)


def test_a_sparse_file_without_its_map_is_no_hole() -> None:
    layer = made([(50_000, [(40_000, 100)]), (9000, [(1, 1)])])
    for maps in (layer.maps[:1], []):
        with pytest.raises(errors.CorruptImage, match="has no map"):
            sparse_image([SparseLayer(layer.entries, maps, layer.payload)])


@pytest.mark.parametrize("size", [50_512, 1 << 44])
def test_a_sparse_file_of_another_size_than_its_map_is_corrupt(size: int) -> None:
    """Cut in the map's chunks it would have any number of them."""
    layer = made([(50_000, [(40_000, 100)])])
    entries = [msgspec.structs.replace(one, size=size) for one in layer.entries]
    with pytest.raises(errors.CorruptImage, match="has no map"):
        sparse_image([SparseLayer(entries, layer.maps, layer.payload)])


def test_another_layout_has_another_head() -> None:
    heads = set()
    for runs in ([(0, 5)], [(1, 5)], [(0, 4)], [(0, 5), (9000, 1)]):
        layout = made([(10_000, runs)]).layout
        assert layout is not None
        heads.add(layout.head)
    assert len(heads) == 4
