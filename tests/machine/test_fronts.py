"""The kernel serves alone what is whole on the disk: which front a mount gets, and why."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.images import Packed
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node, alive
from tests.support.registry import RegistryServer
from tests.support.trees import compare
from tests.support.wait import wait_for

pytestmark = needs_fuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Two nodes that share a content cache; a has no other way to be lazy than b has."""

    a: Node
    b: Node
    cache: ContentServer


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than a page of the content cache, in two layers' worth of files."""
    home = tmp_path_factory.mktemp("tree")
    (home / "1/deep").mkdir(parents=True)
    (home / "1/big").write_bytes(os.urandom(9 << 20))
    (home / "1/deep/small").write_text("small\n")
    os.symlink("deep/small", home / "1/link")
    (home / "2").mkdir()
    (home / "2/.wh.link").touch()
    (home / "2/more").write_bytes(os.urandom(5000))
    return home


@pytest.fixture(scope="module")
def image(tree: Path, registry: RegistryServer) -> str:
    layers = [images.layer(tree / name, tree / f"{name}.tar") for name in ("1", "2")]
    images.write_layout(tree / "oci", layers)
    return images.push(tree / "oci", registry.address, "fronts:1")


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[Nodes]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cc") as cache:
        options = ["--content-cache", cache.url, "--plain-http", registry.address,
                   "--content-cache-token-file", str(tmp_path / "cc/token"),
                   "--index-key-file", str(tmp_path / "key")]  # fmt: skip
        found = Nodes(a=Node(tmp_path / "A", options), b=Node(tmp_path / "B", options), cache=cache)
        try:
            yield found
        finally:
            found.a.close()
            found.b.close()


def reasons(node: Node, mountpoint: Path, image: str, *words: str) -> tuple[dict[str, Any], str]:
    """What a mount says of itself, and why it has the front that it has."""
    node.mounted.append(mountpoint)
    done = node.run("mount", image, str(mountpoint), "--root", str(node.root), *node.options,
                    "--json", "--log-format", "json", *words)  # fmt: skip
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (said,) = [line for line in lines if line["event"] == "front chosen"]
    mounted = json.loads(done.stdout)
    assert mounted["front"] == said["front"]
    return mounted, said["reason"]


def test_auto_is_the_kernel_for_what_is_whole_here_and_a_server_for_what_is_not(
    nodes: Nodes, image: str, tree: Path, tmp_path: Path
) -> None:
    here, why = reasons(nodes.a, tmp_path / "ma", image)
    assert (here["front"], here["pid"], why) == ("erofs", None, "all layers are on this disk")
    assert {layer["complete"] for layer in here["layers"]} == {True}
    wait_for(lambda: not nodes.a.json("stats")["storing"])
    there, why = reasons(nodes.b, tmp_path / "mb", image)
    assert (there["front"], alive(there["pid"])) == ("fuse", True)
    assert why == "2 of 2 layers are not whole on this disk"
    result = compare(str(tmp_path / "ma"), str(tmp_path / "mb"))
    assert not result.differences, str(result)
    assert (tmp_path / "ma/big").read_bytes() == (tree / "1/big").read_bytes()
    assert (here["entries"], here["bytes"]) == (there["entries"], there["bytes"])


def test_both_fronts_show_what_umoci_unpacks(
    nodes: Nodes, image: str, tree: Path, tmp_path: Path
) -> None:
    reference = images.unpack(tree / "oci", tmp_path / "bundle")
    for front in ("erofs", "fuse"):
        mounted = nodes.a.mount(image, tmp_path / front, "--front", front)
        result = compare(str(reference), str(tmp_path / front))
        assert not result.differences, str(result)
        assert (mounted["front"], result.entries) == (front, mounted["entries"] + 1)


def test_erofs_completes_the_layers_from_the_content_cache_and_mounts(
    nodes: Nodes, image: str, registry: RegistryServer, tree: Path, tmp_path: Path
) -> None:
    layers = nodes.a.json("index", image)["layers"]
    before = len(registry.blob_reads())
    mounted, why = reasons(nodes.b, tmp_path / "mb", image, "--front", "erofs")
    assert (mounted["front"], mounted["pid"], why) == ("erofs", None, "asked for")
    assert (tmp_path / "mb/big").read_bytes() == (tree / "1/big").read_bytes()
    digests = {layer["digest"] for layer in layers}
    assert not digests & {path.rpartition("/")[2] for path in registry.blob_reads()[before:]}
    assert {path.name for path in (nodes.b.root / "cache").iterdir()} == {
        layer["cache_key"] for layer in layers
    }
    assert os.listdir(nodes.b.root / "partial") == []
    stats = nodes.b.json("stats")
    assert stats["content_cache"]["bytes"] == sum(layer["payload_size"] for layer in layers)


def test_erofs_completes_the_layers_from_the_registry_where_the_content_cache_is_gone(
    nodes: Nodes, image: str, tree: Path, tmp_path: Path
) -> None:
    nodes.a.json("index", image)
    nodes.b.mount(image, tmp_path / "lazy", "--front", "fuse")
    nodes.b.unmount(tmp_path / "lazy")
    nodes.cache.kill()
    mounted, _ = reasons(nodes.b, tmp_path / "mb", image, "--front", "erofs")
    assert mounted["front"] == "erofs"
    assert (tmp_path / "mb/big").read_bytes() == (tree / "1/big").read_bytes()
    assert nodes.b.json("stats")["registry"]["bytes"] == sum(
        layer["size"] for layer in mounted["layers"]
    )


def test_no_process_stays_once_the_layers_are_in_the_content_cache(
    nodes: Nodes, image: str, tmp_path: Path
) -> None:
    mounted, _ = reasons(nodes.a, tmp_path / "ma", image)
    wait_for(lambda: not nodes.a.json("stats")["storing"])
    for layer in mounted["layers"]:
        assert (nodes.cache.objects / f"{layer['cache_key']}.v1.toc").exists()
    (log,) = (nodes.a.root / "run/log").iterdir()  # of the process that stored
    assert log.read_text().count("Successfully stored") == len(mounted["layers"])
    wait_for(lambda: not alive(int(log.stem)))
    assert (tmp_path / "ma/deep/small").read_text() == "small\n"


def test_stats_tell_a_mount_that_nobody_counts_for_and_unmount_leaves_nothing_of_it(
    nodes: Nodes, image: str, tmp_path: Path
) -> None:
    reasons(nodes.a, tmp_path / "ma", image)
    (row,) = nodes.a.json("stats")["mounts"]
    assert (row["front"], row["pid"], row["disk"]) == ("erofs", None, None)
    assert (row["mountpoint"], row["image"]) == (str(tmp_path / "ma"), image)
    said = nodes.a.run("stats", "--root", str(nodes.a.root)).stdout
    assert f"{tmp_path}/ma  {image}  erofs  the kernel alone" in said
    nodes.a.unmount(tmp_path / "ma")
    nodes.a.unmount(tmp_path / "ma")
    assert nodes.a.json("stats")["mounts"] == []
    assert os.listdir(nodes.a.root / "run/mounts") == []
    assert f" {tmp_path}/" not in Path("/proc/self/mountinfo").read_text()


def test_erofs_is_refused_in_one_line_where_the_kernel_cannot_and_auto_takes_fuse(
    nodes: Nodes, image: str, tmp_path: Path
) -> None:
    nodes.a.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "root", nodes.a.root], check=True)
    try:
        done = nodes.a.run("mount", image, str(tmp_path / "m"), "--root", str(nodes.a.root),
                           *nodes.a.options, "--front", "erofs", "--json", check=False)  # fmt: skip
        assert done.returncode == 1
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "node_fault"
        assert error["message"].startswith("--front erofs: not with this kernel and the disk of")
        assert "Block device required" in error["message"]
        assert os.listdir(nodes.a.root / "cache") == []  # nothing was downloaded for it
        assert not (tmp_path / "m").exists()
        mounted, why = reasons(nodes.a, tmp_path / "m", image)
        assert (mounted["front"], "Block device required" in why) == ("fuse", True)
        assert (tmp_path / "m/deep/small").read_text() == "small\n"
        nodes.a.unmount(tmp_path / "m")
        wait_for(lambda: not alive(mounted["pid"]))
    finally:
        subprocess.run(["umount", "--lazy", nodes.a.root], check=True)


def test_in_the_foreground_auto_serves_and_erofs_stores_and_leaves(
    nodes: Nodes, image: str, tmp_path: Path
) -> None:
    words = [CLIPFS, "mount", image, "--root", str(nodes.a.root), *nodes.a.options, "--foreground"]
    nodes.a.mounted += [tmp_path / "erofs", tmp_path / "auto"]
    done = subprocess.run(
        [*words, str(tmp_path / "erofs"), "--front", "erofs"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "served by the kernel alone" in done.stdout
    assert done.stderr.count("Successfully stored") == 2
    with subprocess.Popen(
        [*words, str(tmp_path / "auto")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert f"served by process {process.pid}".encode() in process.stdout.readline()
        process.terminate()
    assert (tmp_path / "erofs/deep/small").read_text() == "small\n"


def test_a_layer_that_no_block_ends_is_shown_to_its_last_byte_and_kept_as_it_is(
    nodes: Nodes, registry: RegistryServer, tmp_path: Path
) -> None:
    """As `umoci insert` writes them: the last file's bytes end the tar, nothing is padded."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "last").write_bytes(os.urandom(5000))
    whole = images.layer(tree, tmp_path / "whole.tar").tar.read_bytes()
    end = whole.index((tree / "last").read_bytes()) + 5000
    (tmp_path / "cut.tar").write_bytes(whole[:end])
    assert end % 512
    images.write_layout(tmp_path / "oci", [Packed(tmp_path / "cut.tar")])
    odd = images.push(tmp_path / "oci", registry.address, "odd:1")
    mounted, _ = reasons(nodes.a, tmp_path / "ma", odd)
    assert mounted["front"] == "erofs"
    assert (tmp_path / "ma/last").read_bytes() == (tree / "last").read_bytes()
    (layer,) = mounted["layers"]
    assert (nodes.a.root / "cache" / layer["cache_key"]).read_bytes() == whole[:end]
