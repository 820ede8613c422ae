"""A root without a free block: what can be served is, what cannot says so, and it passes."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import images
from tests.support.anew import read_anew
from tests.support.content import run_content_server
from tests.support.driver import cleaned_up, failure, fstype, run_driver
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.small_disk import SmallDisk, needs_loop, small_disk

pytestmark = [needs_fuse, needs_loop]

DATA_BYTES = 6 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tree") / "1"
    home.mkdir()
    (home / "data").write_bytes(os.urandom(DATA_BYTES))
    (home / "hello").write_text("world\n")
    return home


@pytest.fixture(scope="module")
def image(tree: Path, registry: RegistryServer) -> str:
    images.write_layout(tree.parent / "oci", [images.layer(tree, tree.parent / "1.tar")])
    return images.push(tree.parent / "oci", registry.address, "full:1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", mebibytes=64) as found, cleaned_up(tmp_path):
        yield found


@pytest.fixture
def options(registry: RegistryServer) -> list[str]:
    return ["--plain-http", registry.address]


@pytest.fixture
def shared(tmp_path: Path, image: str, options: list[str]) -> Iterator[list[str]]:
    """Options of a node whose content cache holds the image already."""
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "content") as server:
        words = [
            *options,
            "--content-cache", server.url,
            "--content-cache-token-file", str(tmp_path / "content/token"),
            "--index-key-file", str(tmp_path / "key"),
        ]  # fmt: skip
        Node(tmp_path / "A", words).json("index", image)
        yield words


def left(root: Path) -> list[str]:
    """What a failed fill or write must not leave."""
    halves = [*root.rglob("*.tmp"), *root.rglob("*.first"), *root.rglob("*.fill")]
    return [str(path) for path in (*halves, *(root / "cache").iterdir())]


def test_a_mount_for_which_there_is_no_room_says_so_and_works_once_there_is(
    disk: SmallDisk, image: str, tree: Path, options: list[str], tmp_path: Path
) -> None:
    root, place = disk.folder / "root", tmp_path / "m"
    node = Node(root, options)
    disk.fill(but=1 << 20)
    words = ["mount", image, str(place), "--root", str(root), *options, "--json"]
    done = node.run(*words, check=False)
    assert json.loads(done.stdout)["error"]["code"] == "disk_full"
    assert "No space left on device; free space" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert left(root) == []
    assert not place.exists()
    disk.free()
    node.mount(image, place)
    assert (place / "data").read_bytes() == (tree / "data").read_bytes()


def test_bytes_from_the_content_cache_are_served_though_no_block_is_free(
    disk: SmallDisk, image: str, tree: Path, shared: list[str], tmp_path: Path
) -> None:
    node, place = Node(disk.folder / "root", shared), tmp_path / "m"
    mounted = node.mount(image, place)
    disk.fill()
    content = (tree / "data").read_bytes()
    assert (place / "hello").read_text() == "world\n"
    assert (place / "data").read_bytes() == content
    stored = os.stat(node.root / "partial" / mounted["layers"][0]["cache_key"]).st_blocks * 512
    assert stored < DATA_BYTES // 2
    disk.free()
    assert read_anew(place / "data") == content
    assert node.json("stats")["mounts"][0]["registry"] == {"reads": 0, "bytes": 0}
    (layer,) = node.json("cache list")["layers"]
    assert layer["bytes"] > DATA_BYTES


def test_a_read_that_only_the_registry_could_answer_fails_with_enospc_until_there_is_room(
    disk: SmallDisk, image: str, tree: Path, shared: list[str], options: list[str], tmp_path: Path
) -> None:
    node, place = Node(disk.folder / "root", shared), tmp_path / "m"
    node.mount(image, place)
    for path in (tmp_path / "content/objects").rglob("*"):
        if path.is_file():
            path.unlink()
    disk.fill()
    with pytest.raises(OSError, match="No space left") as caught:
        (place / "data").read_bytes()
    assert caught.value.errno == errno.ENOSPC
    assert left(node.root) == []
    disk.free()
    assert (place / "data").read_bytes() == (tree / "data").read_bytes()


def test_a_publish_for_which_there_is_no_room_is_resource_exhausted_and_others_go_on(
    disk: SmallDisk, image: str, tree: Path, options: list[str], other: tuple[str, bytes],
    tmp_path: Path,
) -> None:  # fmt: skip
    root = disk.folder / "root"
    with run_driver(tmp_path / "home", options, root=root) as driver:
        first = driver.publish("first", image)
        disk.fill(but=1 << 20)
        code, details = failure(lambda: driver.publish("second", other[0]))
        assert (code, "free space" in details) == ("RESOURCE_EXHAUSTED", True), details
        assert not driver.target("second").exists() or os.listdir(driver.target("second")) == []
        assert (first / "data").read_bytes() == (tree / "data").read_bytes()
        disk.free()
        assert (driver.publish("second", other[0]) / "big").stat().st_size == 3 << 20
        for name in ("first", "second"):
            driver.unpublish(name)


@pytest.mark.parametrize("where", ["nowhere", "on-the-node", "in-the-content-cache"])
def test_erofs_whose_layer_finds_no_room_is_resource_exhausted_and_all_mounts_read_on(
    where: str, disk: SmallDisk, image: str, tree: Path, shared: list[str], options: list[str],
    other: tuple[str, bytes], tmp_path: Path,
) -> None:  # fmt: skip
    """where  the layer's index is, when the fill that completes it begins"""
    root, erofs = disk.folder / "root", {"front": "erofs"}
    words = shared if where == "in-the-content-cache" else options
    name, content = other
    with run_driver(tmp_path / "home", words, root=root) as driver:
        if where == "on-the-node":
            driver.publish("new", image, attributes={"front": "fuse"})
            driver.unpublish("new")
            for path in (root / "cache").iterdir():
                path.unlink()
        others = [
            driver.publish(front, name, attributes={"front": front}) for front in ("erofs", "fuse")
        ]
        assert [fstype(one) for one in others] == ["erofs", "fuse.clip"]
        disk.fill(but=1 << 20)
        with reading(others, content) as rounds:
            for _ in range(2):
                code, details = failure(lambda: driver.publish("new", image, attributes=erofs))
                assert (code, "free space" in details) == ("RESOURCE_EXHAUSTED", True), details
        assert rounds() > 0
        assert fstype(driver.target("new")) == ""
        assert [path for path in left(root) if "cache/" not in path] == []
        assert len(os.listdir(root / "cache")) == 1  # of the other image
        disk.free()
        target = driver.publish("new", image, attributes=erofs)
        assert fstype(target) == "erofs"
        assert (target / "data").read_bytes() == (tree / "data").read_bytes()
        with reading(others, content) as rounds:
            pass
        assert rounds() > 0
        for pod in ("new", "erofs", "fuse"):
            driver.unpublish(pod)


@pytest.fixture
def other(tmp_path: Path, registry: RegistryServer) -> tuple[str, bytes]:
    """Another image, and what its `big` holds."""
    content = os.urandom(3 << 20)
    (tmp_path / "2").mkdir()
    (tmp_path / "2/big").write_bytes(content)
    images.write_layout(tmp_path / "oci", [images.layer(tmp_path / "2", tmp_path / "2.tar")])
    return images.push(tmp_path / "oci", registry.address, "full-other:1"), content


@contextmanager
def reading(targets: list[Path], content: bytes) -> Iterator[Callable[[], int]]:
    """Read `big` of each target, uncached, at least once, until the block ends; how often."""
    ended = threading.Event()

    def read() -> int:
        rounds = 0
        while not rounds or not ended.is_set():
            for target in targets:
                with (target / "big").open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert file.read() == content
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(read)
        try:
            yield lambda: found.result(30)
        finally:
            ended.set()
