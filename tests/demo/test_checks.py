"""Each check of the demo fails when what it promises is not so."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import checks
from demo.image import Image, Layer
from demo.reads import READ_BYTES, Reads
from demo.stage import NotAsPromised

LAYER = Layer(name="one", blob=Path("x"), digest="sha256:aa", diff_id="sha256:bb", blob_bytes=1,
              payload_bytes=1000, files={}, sizes={})  # fmt: skip
IMAGE = Image(layers=[LAYER])
DATA = bytes(READ_BYTES)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("folder/file")
    return tmp_path


FILES = {"folder/file": hashlib.sha256(b"content").hexdigest()}


def test_a_tree_of_the_same_files_is_counted(tree: Path) -> None:
    assert checks.same_files(tree, FILES).startswith("1 files")


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        pytest.param(lambda tree: (tree / "folder/file").write_bytes(b"contenT"),
                     "differs from its source", id="one flipped byte"),
        pytest.param(lambda tree: (tree / "folder/file").unlink(), "is missing", id="missing"),
        pytest.param(lambda tree: (tree / "more").touch(), "not in the image", id="more"),
    ],
)  # fmt: skip
def test_a_tree_that_differs_is_refused(
    plant: Callable[[Path], object], words: str, tree: Path
) -> None:
    plant(tree)
    with pytest.raises(NotAsPromised, match=words):
        checks.same_files(tree, FILES)


def reads(*, data: bytes = DATA, **moved: int) -> Reads:
    return Reads(seconds=[0.1], moved={"disk": 0, "content_cache": 0, "registry": 0} | moved,
                 data=[data])  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "done"),
    [
        pytest.param("page cache", reads(), id="page cache"),
        pytest.param("disk", reads(disk=READ_BYTES), id="disk"),
        pytest.param("content_cache", reads(content_cache=1 << 17, disk=9), id="content cache"),
        pytest.param("registry", reads(registry=1 << 20), id="registry"),
    ],
)
def test_reads_come_from_the_tier_that_they_were_meant_for(tier: str, done: Reads) -> None:
    checks.came_from(tier, done, [DATA])


@pytest.mark.parametrize(
    ("tier", "done", "words"),
    [
        pytest.param("disk", reads(disk=READ_BYTES, data=b"x"), "wrong bytes", id="wrong bytes"),
        pytest.param("page cache", reads(disk=1), "from the disk", id="not the page cache"),
        pytest.param("disk", reads(disk=READ_BYTES, content_cache=1), "from the content_cache",
                     id="not the disk alone"),
        pytest.param("content_cache", reads(content_cache=1 << 17, registry=1),
                     "from the registry", id="not the content cache alone"),
        pytest.param("content_cache", reads(disk=READ_BYTES), "moved 0 from the content_cache",
                     id="nothing from the tier"),
    ],
)  # fmt: skip
def test_reads_that_came_from_elsewhere_are_told(tier: str, done: Reads, words: str) -> None:
    with pytest.raises(NotAsPromised, match=words):
        checks.came_from(tier, done, [DATA])


def test_a_layer_in_the_registrys_log_is_told() -> None:
    manifest, layer = ("manifests", "1"), ("blobs", LAYER.digest)
    assert "0 for a layer" in checks.no_layer_was_asked_for([manifest], IMAGE)
    checks.every_layer_was_asked_for([manifest, layer], IMAGE)
    with pytest.raises(NotAsPromised, match="1 layers"):
        checks.no_layer_was_asked_for([manifest, layer], IMAGE)
    with pytest.raises(NotAsPromised, match="no request of node B's at all"):
        checks.no_layer_was_asked_for([], IMAGE)
    with pytest.raises(NotAsPromised, match="no request of node A's"):
        checks.every_layer_was_asked_for([manifest], IMAGE)


def test_a_node_that_holds_a_tenth_is_not_lazy() -> None:
    checks.is_lazy(99, IMAGE)
    with pytest.raises(NotAsPromised, match="not lazy"):
        checks.is_lazy(100, IMAGE)


def test_a_volume_that_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAsPromised, match="can be written"):
        checks.is_read_only(tmp_path)
    with pytest.raises(NotAsPromised, match="not with EROFS"):
        checks.is_read_only(tmp_path / "absent")
