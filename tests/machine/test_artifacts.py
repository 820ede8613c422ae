"""OCI artifacts as volumes: model weights that somebody pushed as they are."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.artifacts import push_artifact
from tests.support.machine import needs_fuse
from tests.support.node import Node, content_cache
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

pytestmark = needs_fuse

TITLE = "org.opencontainers.image.title"
WEIGHTS = "application/vnd.example.weights"
TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
ORAS = """
import sys
from oras.client import OrasClient
host, name, *files = sys.argv[1:]
client = OrasClient(hostname=host, insecure=True)
client.push(target=f"{host}/{name}", files=files, disable_path_validation=True)
"""


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[tuple[Node, Node]]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with content_cache(tmp_path / "cc") as (url, token_file, _):
        options = ["--content-cache", url, "--content-cache-token-file", str(token_file)]
        options += ["--index-key-file", str(tmp_path / "key"), "--plain-http", registry.address]
        a, b = Node(tmp_path / "A", options), Node(tmp_path / "B", options)
        try:
            yield a, b
        finally:
            a.close()
            b.close()


def test_what_oras_pushes_is_files_on_both_nodes_and_read_lazily(
    nodes: tuple[Node, Node], registry: RegistryServer, tmp_path: Path
) -> None:
    weights = os.urandom(9_000_001)  # over two pages, and no multiple of anything
    (tmp_path / "weights.bin").write_bytes(weights)
    (tmp_path / "config.json").write_text('{"layers": 3}')
    command = [sys.executable, "-c", ORAS, registry.address, "models/tiny:1", "weights.bin"]
    subprocess.run([*command, "config.json"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    image = f"{registry.address}/models/tiny:1"
    a, b = nodes
    mounted = a.mount(image, tmp_path / "ma")
    assert {row["cache_key"].endswith(".raw") for row in mounted["layers"]} == {True}
    assert (tmp_path / "ma/weights.bin").read_bytes() == weights
    wait_for(lambda: not a.json("stats")["storing"])
    asked = len(registry.blob_reads())
    other = b.mount(image, tmp_path / "mb")
    assert {row["complete"] for row in other["layers"]} == {False}
    with (tmp_path / "mb/weights.bin").open("rb") as file:
        file.seek(8_999_000)
        assert file.read() == weights[8_999_000:]
    assert json.loads((tmp_path / "mb/config.json").read_text()) == {"layers": 3}
    assert sum(path.stat().st_blocks for path in (b.root / "partial").iterdir()) * 512 < 3_000_000
    assert (tmp_path / "mb/weights.bin").read_bytes() == weights
    assert registry.blob_reads()[asked:] == []


def test_one_blob_is_a_file_and_a_tree_without_one_spoiling_the_other(
    nodes: tuple[Node, Node], registry: RegistryServer, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/inside").write_text("from the tar")
    blob = images.layer(tmp_path / "1", tmp_path / "1.tar").blob("gzip")
    image = push_artifact(
        registry.address, "both:1", [(blob, TAR, {}), (blob, TAR, {TITLE: "deep/er/layer.tgz"})]
    )
    for node, mountpoint in zip(nodes, (tmp_path / "ma", tmp_path / "mb"), strict=True):
        keys = [row["cache_key"] for row in node.mount(image, mountpoint)["layers"]]
        assert keys == [keys[0], f"{keys[0]}.raw"]
        assert (mountpoint / "inside").read_text() == "from the tar"
        assert (mountpoint / "deep/er/layer.tgz").read_bytes() == blob
        wait_for(lambda node=node: not node.json("stats")["storing"])  # type: ignore[misc] # a default as a closure
    whole = (nodes[0].root / "cache" / keys[1]).read_bytes()
    assert whole == blob
    assert (nodes[0].root / "cache" / keys[0]).read_bytes() == gzip.decompress(blob)


@pytest.mark.parametrize("title", ["../escaped", ".wh.gone", "a/../../b"])
def test_a_title_that_leaves_the_image_is_refused(
    title: str, nodes: tuple[Node, Node], registry: RegistryServer, tmp_path: Path
) -> None:
    image = push_artifact(registry.address, "hostile:1", [(b"x", WEIGHTS, {TITLE: title})])
    words = ["mount", image, str(tmp_path / "m"), "--root", str(nodes[0].root), "--json"]
    done = nodes[0].run(*words, "--plain-http", registry.address, check=False)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], "title" in error["message"]) == ("corrupt_image", True)
    assert not (tmp_path / "m").exists()
