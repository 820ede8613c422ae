"""A malformed image index is CorruptImage, or it can be read: never a crash, never a loop."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.tree import erofs
from clipfs.tree.chunk_table import Piece
from clipfs.tree.paths import resolve
from clipfs.tree.reader import ImageIndex, Nid
from tests.support.entries import file, folder, symlink
from tests.support.sparse_layers import SparseLayer, sparse_image


def made_image() -> bytes:
    """Two layers with all kinds of inodes; the upper one has sparse files."""
    lower, upper = SparseLayer(payload=bytearray(1 << 20)), SparseLayer()
    lower.entries = [file(b"d/%03d" % n, size=600, offset=512 * n) for n in range(100)]
    upper.entries = [
        symlink(b"short", b"d/001"),
        symlink(b"long", b"t" * 900),
        folder(b"x", xattrs=((b"user.a", b"value"), (b"user.b", b"v" * 700))),
        file(b"empty"),
    ]
    upper.add(b"sparse", 100_000, [(10_000, 5000), (99_000, 1000)])
    upper.add(b"hole", 1 << 20, [])
    return sparse_image([lower, upper])


IMAGE = made_image()
META = (erofs.SUPERBLOCK_OFFSET + erofs.SUPERBLOCK.size + 3 * 128 + 511) // 512 * 512


def read_everything(image: bytes) -> int:
    """Ask all that can be asked of every inode that can be reached; how many answers came."""
    index = ImageIndex(image)
    answers = 0
    seen: set[Nid] = set()
    pending = [index.root]
    while pending:
        nid = pending.pop()
        if nid in seen:
            continue
        seen.add(nid)
        for question in (index.inode, index.target, index.xattrs, lambda n: pieces(index, n)):
            answers += _answered(lambda q=question, n=nid: q(n))  # type: ignore[misc] # bound
        answers += _answered(lambda n=nid: index.lookup(n, b"050"))  # type: ignore[misc] # bound
        try:
            for _, entry in index.list(nid):
                pending.append(entry.nid)
        except errors.CorruptImage:
            continue
    for path in (b"d/050", b"short", b"long/x", b"x/../d/../d/001"):
        answers += _answered(lambda p=path: resolve(index, p))  # type: ignore[misc] # bound
    return answers


def pieces(index: ImageIndex, nid: Nid) -> list[Piece]:
    """The first and the last bytes of a file, as a front asks for them."""
    inode = index.inode(nid)
    size = min(inode.size, 1 << 20)
    found = [*index.pieces(inode, 0, size), *index.pieces(inode, inode.size - size, size)]
    assert sum(piece.length for piece in found) in (0, 2 * size)
    return found


def _answered(question: Callable[[], object]) -> bool:
    try:
        question()
    except errors.CorruptImage:
        return False
    return True


def test_a_sound_image_answers_everything() -> None:
    assert read_everything(IMAGE) > 200


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_bytes_are_corrupt_or_readable(data: st.DataObject) -> None:
    """Half of them hit the superblock and the first inodes, where most depends on each byte."""
    image = bytearray(IMAGE)
    places = st.integers(1024, META + 700) | st.integers(0, len(image) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        image[place] = data.draw(st.integers(0, 255))
    try:
        read_everything(bytes(image))
        event("opened")
    except errors.CorruptImage:
        event("refused")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(IMAGE) - 1))
def test_an_image_that_is_cut_off_is_refused(size: int) -> None:
    with pytest.raises(errors.CorruptImage):
        ImageIndex(IMAGE[:size])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_noise_behind_a_sound_superblock_is_corrupt_or_readable(noise: bytes) -> None:
    image = IMAGE[:META] + noise * (len(IMAGE) // (len(noise) or 1) + 1)
    try:
        read_everything(image[: len(IMAGE)].ljust(len(IMAGE), b"\0"))
    except errors.CorruptImage:
        event("refused")


def changed(offset: int, form: str, *values: int | bytes) -> bytes:
    image = bytearray(IMAGE)
    struct.pack_into("<" + form, image, offset, *values)
    return bytes(image)


SUPER = erofs.SUPERBLOCK_OFFSET
DEVICES = SUPER + erofs.SUPERBLOCK.size


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(changed(SUPER, "I", 0), id="magic"),
        pytest.param(changed(SUPER + 12, "B", 12), id="block-size"),
        pytest.param(changed(SUPER + 14, "H", 7), id="root"),
        pytest.param(changed(SUPER + 36, "I", 1 << 31), id="blocks"),
        pytest.param(changed(SUPER + 80, "I", 0x7FFF), id="features"),
        pytest.param(changed(SUPER + 86, "H", 0xFFFF), id="devices"),
        pytest.param(changed(SUPER + 88, "H", 0xFFFF), id="device-table"),
        pytest.param(changed(DEVICES, "8s", b"sparse:0"), id="sparse-files-before-layers"),
        pytest.param(changed(DEVICES + 256 + 7, "1s", b"2"), id="sparse-files-of-no-layer"),
        pytest.param(changed(DEVICES + 256 + 7, "1s", b"x"), id="sparse-files-without-a-number"),
        pytest.param(b"", id="empty"),
        pytest.param(IMAGE + bytes(512), id="too-long"),
    ],
)
def test_a_superblock_that_is_not_ours_is_refused(image: bytes) -> None:
    with pytest.raises(errors.CorruptImage, match="image index"):
        ImageIndex(image)


def of(path: bytes) -> int:
    """Where path's inode lies in IMAGE."""
    nid = resolve(ImageIndex(IMAGE), path, follow_last=False)
    assert nid is not None
    return META + nid * erofs.SLOT


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        pytest.param(of(b"d/001"), "H", 0, id="compact-inode"),
        pytest.param(of(b"d/001"), "H", 1, id="file-without-chunks"),
        pytest.param(of(b"d/001") + 4, "H", 0, id="no-type"),
        pytest.param(of(b"d/001") + 8, "Q", 1 << 40, id="larger-than-its-layer"),
        pytest.param(of(b"d/001") + 40, "I", 10**9, id="nanoseconds"),
        pytest.param(of(b"d/001") + 64 + 2, "H", 0, id="device-0"),
        pytest.param(of(b"d/001") + 64 + 2, "H", 4, id="device-too-high"),
        pytest.param(of(b"d/001") + 64 + 4, "I", 1 << 20, id="beyond-its-layer"),
    ],
)
def test_a_file_whose_bytes_cannot_be_right_is_corrupt(offset: int, form: str, value: int) -> None:
    index = ImageIndex(changed(offset, form, value))
    nid = resolve(index, b"d")
    assert nid is not None
    file_nid = index.lookup(nid, b"001")
    assert file_nid is not None
    with pytest.raises(errors.CorruptImage):
        index.inode(file_nid)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        pytest.param(2, "H", 0, id="device-0"),
        pytest.param(2, "H", 4, id="device-too-high"),
        pytest.param(4, "I", 1 << 20, id="beyond-its-device"),
    ],
)
def test_a_sparse_file_with_a_chunk_that_cannot_be_right_is_corrupt_there(
    offset: int, form: str, value: int
) -> None:
    """The third chunk of 4 KiB is its first with data."""
    index = ImageIndex(changed(of(b"sparse") + 64 + 2 * 8 + offset, form, value))
    nid = resolve(index, b"sparse")
    assert nid is not None
    inode = index.inode(nid)
    assert index.pieces(inode, 0, 8192) == [Piece(None, 0, 8192)]
    with pytest.raises(errors.CorruptImage):
        index.pieces(inode, 0, 8193)


def test_an_empty_file_on_disk_is_no_image_index(tmp_path: Path) -> None:
    (tmp_path / "index").touch()
    with pytest.raises(errors.CorruptImage, match="is empty"):
        ImageIndex.open(tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        ImageIndex.open(tmp_path / "other")
