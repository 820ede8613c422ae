"""Sparse members from the tar to the mount: right to the byte, on both fronts, on two nodes."""

import itertools
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import images
from tests.support.containerd import run_containerd
from tests.support.image_indexes import image_indexes
from tests.support.images import Packed
from tests.support.machine import needs_fuse
from tests.support.node import Node, content_cache
from tests.support.raw_sparse_tar import MAKERS
from tests.support.raw_tar import END
from tests.support.registry import RegistryServer
from tests.support.sparse_files import FILES, HUGE, make_sparse_files
from tests.support.trees import compare
from tests.support.wait import wait_for

pytestmark = needs_fuse

MIB = 1 << 20
GNU = ["tar", "--create", "--sparse"]
FORMATS = {
    "gnu": [*GNU, "--format=gnu"],
    "pax-0.0": [*GNU, "--format=pax", "--sparse-version=0.0"],
    "pax-0.1": [*GNU, "--format=pax", "--sparse-version=0.1"],
    "pax-1.0": [*GNU, "--format=pax", "--sparse-version=1.0"],
    "bsdtar": ["bsdtar", "-c", "--format=pax"],
}


@dataclass(frozen=True, slots=True)
class Built:
    """An image, and the tree that it must show."""

    image: str
    tree: Path
    names: int

    @property
    def bytes(self) -> int:
        """Of regular files, each inode once."""
        found = {path.stat().st_ino: path.stat().st_size for path in self.tree.rglob("*")
                 if path.is_file()}  # fmt: skip
        return sum(found.values())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Built:
    """A layer of each format, and one on top that hides, links and replaces sparse files."""
    home = tmp_path_factory.mktemp("sparse")
    tree = home / "tree"
    for name in FORMATS:
        (tree / name).mkdir(parents=True)
        make_sparse_files(tree / name, FILES.keys() - HUGE)
        os.link(tree / name / "many", tree / name / "same")
    _write_large(tree / "pax-1.0/large")
    layers = _packed(tree, home)
    with tarfile.open(home / "top.tar", "w") as tar:
        for name in (".wh.small", "hole"):  # the one is hidden, the other replaced
            tar.addfile(_info(f"gnu/{name}"))
        link = _info("linked")
        link.type, link.linkname = tarfile.LNKTYPE, "pax-0.1/hole-in-the-middle"
        tar.addfile(link)
    (tree / "gnu/small").unlink()
    (tree / "gnu/hole").write_bytes(b"")
    os.link(tree / "pax-0.1/hole-in-the-middle", tree / "linked")
    _set_times(tree)
    images.write_layout(home / "oci", [*layers, Packed(home / "top.tar")])
    image = images.push(home / "oci", registry.address, "sparse:1")
    return Built(image, tree, len(list(tree.rglob("*"))))


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Built:
    home = tmp_path_factory.mktemp("huge")
    for name in FORMATS:
        (home / "tree" / name).mkdir(parents=True)
        make_sparse_files(home / "tree" / name, HUGE)
    images.write_layout(home / "oci", _packed(home / "tree", home))
    return Built(images.push(home / "oci", registry.address, "huge:1"), home / "tree", 15)


def _packed(tree: Path, home: Path) -> list[Packed]:
    _set_times(tree)
    for name, command in FORMATS.items():
        subprocess.run([*command, "-f", home / f"{name}.tar", "-C", tree, name], check=True)
    return [Packed(home / f"{name}.tar") for name in FORMATS]


def _set_times(tree: Path) -> None:
    """As the tars have them: whole seconds, and none of a root that they do not name."""
    for path in tree.rglob("*"):
        os.utime(path, (0, 0 if path == tree / "gnu/hole" and not path.stat().st_size else 1))
    os.utime(tree, (0, 0))


def _info(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    return info


def _write_large(path: Path) -> None:
    """30 MiB of data in single MiB, each behind a hole."""
    with path.open("wb") as file:
        for number in range(30):
            file.seek(number * 5 * MIB + 4096)
            file.write(os.urandom(MIB))


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[tuple[Node, Node]]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with content_cache(tmp_path / "cc") as (url, token_file, _):
        options = ["--content-cache", url, "--content-cache-token-file", str(token_file),
                   "--index-key-file", str(tmp_path / "key"),
                   "--plain-http", registry.address]  # fmt: skip
        a, b = Node(tmp_path / "A", options), Node(tmp_path / "B", options)
        try:
            yield a, b
        finally:
            a.close()
            b.close()


def sparse_files(node: Node) -> list[Path]:
    return sorted((node.root / "index").glob("*.v1.sparse"))


def assert_shown(mount: Path, built: Built) -> None:
    result = compare(str(built.tree), str(mount))
    assert not result.differences, str(result)
    assert result.bytes >= built.bytes > 400 * MIB


def test_both_fronts_show_the_files_as_they_were_byte_for_byte(
    nodes: tuple[Node, Node], built: Built, tmp_path: Path
) -> None:
    node, _ = nodes
    for front in ("fuse", "erofs"):
        mounted = node.mount(built.image, tmp_path / front, "--front", front)
        assert mounted["front"] == front
        assert (mounted["entries"], mounted["bytes"]) == (built.names, built.bytes)
        assert len(sparse_files(node)) == (0 if front == "fuse" else len(FORMATS))
        assert_shown(tmp_path / front, built)
    inodes = {
        front: {path.name: path.stat().st_ino for path in (tmp_path / front).rglob("*")}
        for front in ("fuse", "erofs")
    }
    assert inodes["fuse"] == inodes["erofs"]
    (row,) = node.json("ls", built.image, "/pax-1.0/large")["entries"]
    assert row["size"] == (built.tree / "pax-1.0/large").stat().st_size


def test_containerd_sees_the_same_bytes_in_runs_that_no_block_ends(
    nodes: tuple[Node, Node], registry: RegistryServer, tmp_path: Path
) -> None:
    """Formats leave open whether a run begins a block of the archive: GNU tar writes whole ones.

    containerd refuses GNU's old format ("unhandled tar header type 83").
    """
    makers = {name: make for name, make in MAKERS.items() if name != "old-gnu"}
    runs = [(3, 700), (5000, 1), (9000, 4097), (19_999, 1)]
    data = os.urandom(sum(length for _, length in runs))
    members = [make(name.encode(), 25_000, runs, data) for name, make in makers.items()]
    (tmp_path / "tar").write_bytes(b"".join(members) + END)
    images.write_layout(tmp_path / "oci", [Packed(tmp_path / "tar")])
    image = images.push(tmp_path / "oci", registry.address, "runs:1")
    node, _ = nodes
    with (
        run_containerd(tmp_path / "containerd") as containerd,
        containerd.tree(image, tmp_path / "reference") as reference,
    ):
        for front in ("fuse", "erofs"):
            node.mount(image, tmp_path / front, "--front", front)
            for name in makers:
                shown = (tmp_path / front / name).read_bytes()
                assert shown == (reference / name).read_bytes()
                assert (len(shown), shown[3:703]) == (25_000, data[:700])


def test_auto_rebuilds_what_is_little_and_serves_what_is_much(
    nodes: tuple[Node, Node], huge: Built, tmp_path: Path
) -> None:
    node, _ = nodes
    mounted = node.mount(huge.image, tmp_path / "m")
    assert (mounted["front"], mounted["bytes"]) == ("erofs", huge.bytes)
    assert huge.bytes > 5 << 40
    for path in (node.root / "index").glob("*.v1.*"):
        assert path.stat().st_blocks * 512 < 64 << 10  # of a TiB with a byte in it


def test_files_that_nobody_reads_from_end_to_end_are_right_around_their_data(
    nodes: tuple[Node, Node], huge: Built, tmp_path: Path
) -> None:
    node, _ = nodes
    for front in ("fuse", "erofs"):
        node.mount(huge.image, tmp_path / front, "--front", front)
        for name, of_format in itertools.product(HUGE, FORMATS):
            shown, original = tmp_path / front / of_format / name, huge.tree / of_format / name
            assert shown.stat().st_size == original.stat().st_size == FILES[name].size
            places = [0, FILES[name].size - 9000, *(start - 5000 for start, _ in FILES[name].runs)]
            with shown.open("rb") as one, original.open("rb") as other:
                for place in (max(place, 0) for place in places):
                    found = os.pread(one.fileno(), 20_000, place)
                    assert found == os.pread(other.fileno(), 20_000, place)


def test_another_node_has_the_same_index_and_moves_only_what_it_reads(
    nodes: tuple[Node, Node], built: Built, tmp_path: Path
) -> None:
    a, b = nodes
    layers = a.json("index", built.image)["layers"]
    mounted = b.mount(built.image, tmp_path / "b", "--front", "fuse")
    assert image_indexes(a) == image_indexes(b)
    moved = b.json("stats")["content_cache"]["bytes"]
    large = tmp_path / "b/pax-1.0/large"
    os.posix_fadvise(fd := os.open(large, os.O_RDONLY), 0, 0, os.POSIX_FADV_RANDOM)
    try:
        assert os.pread(fd, 9000, 2 * MIB) == bytes(9000)
        assert b.json("stats")["content_cache"]["bytes"] == moved  # a hole moves nothing
        start = 50 * MIB + 8192
        with (built.tree / "pax-1.0/large").open("rb") as original:
            assert os.pread(fd, 4096, start) == os.pread(original.fileno(), 4096, start)
    finally:
        os.close(fd)
    moved = b.json("stats")["content_cache"]["bytes"] - moved
    payload = max(layer["payload_size"] for layer in layers)
    assert 0 < moved <= 2 * 128 * 1024 < payload // 10
    on_disk = sum(path.stat().st_blocks * 512 for path in (b.root / "partial").iterdir())
    assert on_disk < payload // 10
    assert os.listdir(b.root / "cache") == []
    assert_shown(tmp_path / "b", built)
    (row,) = b.json("stats")["mounts"]
    assert row["registry"]["bytes"] == 0
    assert sparse_files(b) == []
    assert mounted["bytes"] == built.bytes


def test_a_rebuilt_file_lives_with_its_layer_and_one_that_was_cut_is_made_anew(
    nodes: tuple[Node, Node], built: Built, tmp_path: Path
) -> None:
    node, _ = nodes
    node.mount(built.image, tmp_path / "m", "--front", "erofs")
    made = {path: path.read_bytes() for path in sparse_files(node)}
    assert len(made) == len(FORMATS)
    assert node.json("cache collect", "--max-bytes", "0")["removed"] == []
    node.unmount(tmp_path / "m")
    cut, spoilt, *_ = made
    cut.chmod(0o600)
    os.truncate(cut, 5000)
    node.mount(built.image, tmp_path / "m", "--front", "erofs")
    assert cut.read_bytes() == made[cut]
    node.unmount(tmp_path / "m")
    spoilt.chmod(0o600)
    spoilt.write_bytes(made[spoilt][:-1] + bytes([made[spoilt][-1] ^ 1]))
    key = ["--index-key-file", str(tmp_path / "key")]
    said = node.run("cache", "verify", "--root", str(node.root), *key, "--json", check=False)
    assert said.returncode == 1
    (wrong,) = [row for row in json.loads(said.stdout)["layers"] if row["is"] == "wrong"]
    assert wrong["cache_key"] == spoilt.name.partition(".")[0]
    assert "sparse files rebuilt of it differ" in wrong["why"]
    assert not spoilt.exists()
    assert (node.root / "cache" / wrong["cache_key"]).exists()
    node.mount(built.image, tmp_path / "m", "--front", "erofs")
    assert_shown(tmp_path / "m", built)
    node.unmount(tmp_path / "m")
    wait_for(lambda: not node.json("stats")["storing"])
    node.json("cache collect", "--max-bytes", "0")
    assert sparse_files(node) == []
