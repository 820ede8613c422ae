"""An image of real content on two nodes: node A pays, and both show what umoci unpacks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import images
from tests.support.machine import needs_fuse
from tests.support.node import Node, content_cache
from tests.support.real_image import CODECS, RealImage, real_image
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.trees import compare
from tests.support.wait import wait_for

pytestmark = [
    needs_fuse,
    pytest.mark.timeout(900),  # the image is downloaded and built at a machine's first run
]

SMALL = "opt/python/django/urls/resolvers.py"


@dataclass(frozen=True, slots=True)
class TwoNodes:
    """Two nodes with separate roots, one key and one content cache."""

    a: Node
    b: Node


@pytest.fixture
def nodes(tmp_path: Path, registry: RegistryServer) -> Iterator[TwoNodes]:
    (tmp_path / "key").write_text("the cluster's key\n")
    with content_cache(tmp_path / "content") as (url, token_file, _):
        options = ["--content-cache", url, "--content-cache-token-file", str(token_file),
                   "--index-key-file", str(tmp_path / "key"),
                   "--plain-http", registry.address]  # fmt: skip # a word and its value
        both = TwoNodes(Node(tmp_path / "A", options), Node(tmp_path / "B", options))
        try:
            yield both
        finally:
            both.a.close()
            both.b.close()


@pytest.fixture(scope="module")
def image() -> RealImage:
    return real_image()


def test_the_image_is_large_and_uses_what_layers_can_do(image: RealImage) -> None:
    census = image.census()
    floors = {
        "layers": 3,
        "payload_bytes": 400_000_000,
        "files": 10_000,
        "whiteouts": 5,
        "links_across_layers": 100,
        "symlinks": 100,
        "with_xattrs": 3,
    }
    assert {name: census[name] for name in floors if census[name] < floors[name]} == {}


@pytest.mark.parametrize("codec", CODECS)
def test_node_a_pays_and_both_nodes_show_what_umoci_unpacks(
    codec: str,
    image: RealImage,
    nodes: TwoNodes,
    registry: RegistryServer,
    tmp_path: Path,
    say: Say,
) -> None:
    reference = images.push(image.layout(codec), registry.address, f"real-{codec}:1")
    payload_bytes = image.census()["payload_bytes"]

    nodes.a.mount(reference, tmp_path / "a", "--log-level", "info")
    wait_for(lambda: not nodes.a.json("stats")["storing"], within_s=120)
    asked = len(registry.blob_reads())
    mounted = nodes.b.mount(reference, tmp_path / "b", "--log-level", "info")
    small = (tmp_path / "b" / SMALL).read_bytes()
    assert small == (image.reference / SMALL).read_bytes()
    held = on_disk(nodes.b.root)
    assert held < payload_bytes / 10
    assert len(small) <= nodes.b.json("stats")["content_cache"]["bytes"] < payload_bytes / 10

    with ThreadPoolExecutor() as side_by_side:
        trees = [str(tmp_path / name) for name in ("a", "b")]
        results = list(side_by_side.map(compare, [str(image.reference)] * 2, trees))
    say(f"{codec}, node A: {results[0]}\n{codec}, node B: {results[1]}")
    say(f"node B held {held} of {payload_bytes} payload bytes before the comparison")
    for result in results:
        assert not result.differences, str(result)
        assert result.entries == mounted["entries"] + 1  # the root
        assert result.bytes >= mounted["bytes"]
    layers = {row["digest"] for row in mounted["layers"]}
    assert not layers & {path.rpartition("/")[2] for path in registry.blob_reads()[asked:]}
    assert nodes.b.json("stats")["registry"] == {"reads": 0, "bytes": 0}


def on_disk(root: Path) -> int:
    """Bytes that a node's disk holds of payloads and indexes."""
    folders = [root / name for name in ("cache", "partial", "index")]
    return sum(path.stat().st_blocks * 512 for folder in folders for path in folder.iterdir())
