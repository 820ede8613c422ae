"""Mounts with an object store as tier 2: the real command, its fork, and a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import needs_fuse
from tests.support.node import ROOM, Node
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server
from tests.support.samples import Sample
from tests.support.wait import wait_for

pytestmark = needs_fuse


@pytest.fixture
def nodes(
    tmp_path: Path, s3_server: S3Server, registry: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Node]]:
    """Three nodes of one cluster."""
    s3_server.use(monkeypatch)
    (tmp_path / "key").write_text("the cluster's key\n")
    options = ["--plain-http", registry.address, "--index-key-file", str(tmp_path / "key"),
               "--content-cache", f"s3://shared{tmp_path}"]  # fmt: skip
    made = [Node(tmp_path / name, options) for name in "abc"]
    yield made
    for node in made:
        node.close()


def stored(node: Node) -> None:
    wait_for(lambda: not node.json("stats")["storing"], within_s=60)


def layer_reads(registry: RegistryServer, sample: Sample) -> int:
    return sum(sample.layer.digest in path for path in registry.blob_reads())


@pytest.mark.parametrize("front", ["erofs", "fuse"])
def test_one_node_downloads_a_layer_and_the_others_read_it_from_the_store(
    front: str, nodes: list[Node], image: str, sample: Sample, registry: RegistryServer,
    tmp_path: Path,
) -> None:  # fmt: skip
    first, *others = nodes
    first.json("index", image)
    stored(first)
    before = layer_reads(registry, sample)
    for node in others:
        mountpoint = tmp_path / f"on {node.root.name}"
        node.mount(image, mountpoint, "--front", "auto" if front == "erofs" else front)
        found = next(path for path in mountpoint.rglob("*") if path.is_file())
        with found.open("rb") as file:
            file.seek(9 << 20)
            data = file.read(53_248)
        assert len(data) == 53_248
        assert data in sample.payload
        assert node.json("stats")["content_cache"]["reads"] > 0
        assert node.json("stats")["registry"]["bytes"] == 0
        node.unmount(mountpoint)
    assert layer_reads(registry, sample) == before


def test_a_mount_whose_layers_are_all_here_leaves_a_process_that_stores_them(
    nodes: list[Node], image: str, sample: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    first, second, _ = nodes
    first.mount(image, tmp_path / "first", "--front", "auto")
    stored(first)
    before = layer_reads(registry, sample)
    second.json("index", image)
    assert layer_reads(registry, sample) == before


def test_a_touched_layer_is_filled_from_the_store(
    nodes: list[Node], image: str, sample: Sample, registry: RegistryServer, tmp_path: Path
) -> None:
    first, second, _ = nodes
    first.json("index", image)
    stored(first)
    before = layer_reads(registry, sample)
    words = ("--front", "fuse", "--background-fill", "touched", *ROOM)
    second.mount(image, tmp_path / "m", *words)
    found = next(path for path in (tmp_path / "m").rglob("*") if path.is_file())
    with found.open("rb", buffering=0) as file:
        data = file.read(1000)
    assert len(data) == 1000
    assert data in sample.payload
    payload = second.root / "cache" / sample.key
    wait_for(payload.exists, within_s=60)
    assert payload.read_bytes() == sample.payload
    wait_for(lambda: second.json("stats")["mounts"][0]["background_fill"]["layers"] == 1)
    assert second.json("stats")["content_cache"]["bytes"] == len(sample.payload)
    assert layer_reads(registry, sample) == before


def test_a_mount_goes_well_without_the_store(
    nodes: list[Node], image: str, s3_server: S3Server, tmp_path: Path
) -> None:
    s3_server.hang()
    try:
        nodes[0].mount(image, tmp_path / "m")
        assert nodes[0].json("stats")["content_cache"]["errors"] >= 1
    finally:
        s3_server.wake()
    assert [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
