"""Which front is chosen and why; what is written down of a mount that the kernel serves alone."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.reference import parse_reference
from clipfs.layer.index import PackedEntries, make_index
from clipfs.layer.layout import Layout
from clipfs.mount import kernel, records, syscalls
from clipfs.mount.front import Wanted
from clipfs.mount.kernel import chosen_tree, mount_tree
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.prepare import Prepared, sparse_layouts
from clipfs.mount.unmount import unmount
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.superblock import mark_received
from tests.support.entries import file
from tests.support.machine import needs_fuse
from tests.support.sparse_layers import SparseLayer, sparse_image
from tests.support.tier_stack import made_layout
from tests.tree.torture import image_over

pytestmark = needs_fuse

SIZE = 4096


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return made_layout(tmp_path / "root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount at; whatever is mounted there in the end goes."""
    found = tmp_path / "place"
    found.mkdir()
    yield found
    while syscalls.detach(found):
        pass


def made_image(layout: Layout, *, size: int = SIZE, number: int = 1) -> Prepared:
    """An image of one layer with one file, whole on the disk of layout."""
    digest = Digest(f"sha256:{number:064x}")
    layer = Layer(digest=digest, size=1, media_type="", diff_id=digest)
    index = make_index(
        payload_bytes=size, diff_id=digest, chunk_digests=b"", entries=PackedEntries()
    )
    index_path = layout.image_index(f"sha256_{number:064x}")
    index_path.write_bytes(image_over([[file(b"x", size=size)]], [size]))
    layout.payload(layer.cache_key).write_bytes(b"x" * size)
    reference = parse_reference("registry.test/image:1")
    return Prepared(
        image=Image(reference=reference, digest=digest, layers=(layer,)),
        layers=(IndexedLayer(layer=layer, index=index),),
        sparse=(),
        is_merged=False,
        index_path=index_path,
        resolve_s=0,
        index_s=0,
    )


def mount(image: Prepared, layout: Layout, place: Path) -> None:
    with chosen_tree("erofs", image, layout) as tree:
        assert tree is not None
        mount_tree(tree, image, layout, place)


def is_kernels(wanted: Wanted, image: Prepared, layout: Layout) -> bool:
    with chosen_tree(wanted, image, layout) as tree:
        return tree is not None


@pytest.mark.parametrize(("wanted", "expected"), [("auto", True), ("erofs", True), ("fuse", False)])
def test_what_is_whole_on_the_disk_is_the_kernels_unless_fuse_is_asked_for(
    wanted: Wanted, expected: bool, layout: Layout
) -> None:
    assert is_kernels(wanted, made_image(layout), layout) is expected


def test_a_layer_that_is_not_whole_is_served_by_fuse_and_refused_to_erofs(layout: Layout) -> None:
    image = made_image(layout)
    layout.payload(image.layers[0].cache_key).unlink()
    assert not is_kernels("auto", image, layout)
    with pytest.raises(errors.NodeFault, match="--front erofs: not with this kernel"):
        is_kernels("erofs", image, layout)


def test_an_image_index_of_another_node_is_not_shown_by_the_kernel(layout: Layout) -> None:
    image = made_image(layout)
    with image.index_path.open("r+b") as file:
        mark_received(file.fileno())
    assert not is_kernels("auto", image, layout)
    with pytest.raises(errors.NodeFault, match="merged by another node"):
        is_kernels("erofs", image, layout)


def test_auto_does_not_copy_a_long_layer_to_make_whole_blocks_of_it(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "MAX_AUTO_COPY_BYTES", 1 << 20)
    odd = made_image(layout, size=(1 << 20) + 1)
    assert not is_kernels("auto", odd, layout)
    assert is_kernels("erofs", odd, layout)
    assert is_kernels("auto", made_image(layout, size=(1 << 20) - 1), layout)
    assert is_kernels("auto", made_image(layout, size=1 << 21), layout)


def made_sparse_image(layout: Layout, made: SparseLayer) -> Prepared:
    """An image of one layer with sparse files, whole on the disk of layout."""
    image = made_image(layout)
    image.index_path.write_bytes(sparse_image([made]))
    (one,) = image.layers
    index = make_index(
        payload_bytes=len(made.payload), diff_id=one.layer.digest, chunk_digests=b"",
        entries=PackedEntries(made.entries), sparse=made.maps,
    )  # fmt: skip
    layout.payload(one.cache_key).write_bytes(made.payload)
    layers = (IndexedLayer(layer=one.layer, index=index),)
    return replace(image, layers=layers, sparse=sparse_layouts(layers))


def test_auto_rebuilds_no_long_sparse_files_and_takes_those_that_are_there(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "MAX_AUTO_COPY_BYTES", 1 << 20)
    layer = SparseLayer()
    entry = layer.add(b"x", 1 << 30, [(1 << 29, (1 << 20) + 1)])
    image = made_sparse_image(layout, layer)
    path = layout.sparse_file(image.layers[0].cache_key)
    assert not is_kernels("auto", image, layout)
    assert not path.exists()
    assert is_kernels("erofs", image, layout)
    assert path.exists()
    assert is_kernels("auto", image, layout)
    assert path.stat().st_size < entry.size


def test_a_disk_without_room_for_sparse_files_is_served_by_fuse_and_told_to_erofs(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = SparseLayer()
    layer.add(b"x", 1 << 30, [(1 << 29, 5)])
    image = made_sparse_image(layout, layer)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    assert not is_kernels("auto", image, layout)
    with pytest.raises(errors.DiskFull, match="free space"):
        is_kernels("erofs", image, layout)
    assert [path for path in layout.index.iterdir() if "sparse" in path.name] == []


def test_a_record_lives_as_long_as_its_mount_is_mounted_and_needs_no_process(
    layout: Layout, place: Path
) -> None:
    mount(made_image(layout), layout, place)
    (record,) = records.living(layout)
    (here,) = mounts_at(place)
    assert (record.front, record.pid, record.device) == ("erofs", 0, here.device)
    assert record.layers == (f"sha256_{1:064x}",)
    assert records.is_mount_of(record, here)
    assert records.is_answered(record)
    assert not records.is_served(record)
    syscalls.detach(place)
    assert records.living(layout) == []


def test_a_record_of_an_earlier_boot_or_of_another_image_is_not_living(
    layout: Layout, place: Path
) -> None:
    mount(made_image(layout), layout, place)
    (record,) = records.living(layout)
    store = records.mounts(layout)
    for other in ({"boot_id": "another"}, {"index_key": "sha256_0"}):
        store.write(record.id, msgspec.structs.replace(record, **other))
        assert records.living(layout) == []


def test_an_unmount_takes_the_record_too_and_twice_is_as_good_as_once(
    layout: Layout, place: Path
) -> None:
    mount(made_image(layout), layout, place)
    unmount(layout, place, wait_s=0)
    assert (mounts_at(place), records.mounts(layout).all()) == ([], {})
    unmount(layout, place, wait_s=0)


def test_a_record_stays_for_as_long_as_a_bind_mount_keeps_its_mount(
    layout: Layout, place: Path, tmp_path: Path
) -> None:
    mount(made_image(layout), layout, place)
    (tmp_path / "pod").mkdir()
    syscalls.bind_read_only(place, tmp_path / "pod")
    try:
        unmount(layout, place, wait_s=0)
        assert len(records.living(layout)) == 1
        assert (tmp_path / "pod/x").read_bytes() == b"x" * SIZE
    finally:
        syscalls.detach(tmp_path / "pod")
    unmount(layout, place, wait_s=0)
    assert records.mounts(layout).all() == {}


def test_what_an_unmount_by_hand_leaves_goes_with_the_next_mount(
    layout: Layout, place: Path
) -> None:
    for _ in range(3):
        mount(made_image(layout), layout, place)
        syscalls.detach(place)
    assert len(records.mounts(layout).all()) == 1
    mount(made_image(layout), layout, place)
    assert len(records.living(layout)) == len(records.mounts(layout).all()) == 1


def test_a_mount_that_cannot_be_shown_leaves_no_record(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(errors.NodeFault, match="No such file"):
        mount(made_image(layout), layout, tmp_path / "nowhere")
    assert records.mounts(layout).all() == {}


def test_an_erofs_of_somebody_else_is_left_alone(
    layout: Layout, place: Path, tmp_path: Path
) -> None:
    image = made_image(layout)
    os.link(image.index_path, tmp_path / "rootfs.erofs")
    payload = layout.payload(image.layers[0].cache_key)
    options = f"device={payload}"
    syscalls.mount(str(tmp_path / "rootfs.erofs"), place, "erofs", syscalls.MS_RDONLY, options)
    with pytest.raises(errors.InvalidInput, match="mount of erofs, not one of clipfs"):
        unmount(layout, place, wait_s=0)
    assert len(mounts_at(place)) == 1
