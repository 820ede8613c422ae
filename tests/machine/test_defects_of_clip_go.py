"""Four defects of clip, the Go system that this one replaces; each has its test and its name.

The whole way, with the installed commands: a registry, a content cache behind a proxy that
writes down what it is asked, node A that pays, node B that reads.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.recording_proxy import Recorder, recording_proxy
from tests.support.registry import RegistryServer, run_registry
from tests.support.wait import wait_for

pytestmark = needs_fuse

PAGE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Two nodes, both with the proxy as their content cache; `recorder` is what it saw."""

    a: Node
    b: Node
    server: ContentServer
    recorder: Recorder
    image: str
    files: dict[str, bytes]

    def paid(self, mountpoint: Path) -> list[dict[str, Any]]:
        """Mount on node A and wait until the layers are in the content cache; the layers."""
        layers: list[dict[str, Any]] = self.a.mount(self.image, mountpoint)["layers"]
        wait_for(lambda: not self.a.json("stats")["storing"])
        return layers

    def stored(self) -> set[str]:
        """The keys of all objects that the content cache has."""
        objects = self.server.objects
        return {str(path.relative_to(objects)) for path in objects.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Small files side by side in one chunk, and a big one over two pages."""
    small = {f"small/{number}": os.urandom(1000) for number in range(40)}
    return {**small, "big": os.urandom(9 << 20)}


@pytest.fixture
def cluster(files: dict[str, bytes], registry: RegistryServer, tmp_path: Path) -> Iterator[Cluster]:
    image = pushed(files, registry, tmp_path)
    (tmp_path / "key").write_text("the cluster's key\n")
    with (
        run_content_server(tmp_path / "cc") as server,
        recording_proxy(server.port) as recorder,
    ):
        options = ["--content-cache", recorder.url,
                   "--content-cache-token-file", str(tmp_path / "cc/token"),
                   "--index-key-file", str(tmp_path / "key"),
                   "--plain-http", registry.address]  # fmt: skip # as typed by hand
        a, b = Node(tmp_path / "A", options), Node(tmp_path / "B", options)
        try:
            yield Cluster(a=a, b=b, server=server, recorder=recorder, image=image, files=files)
        finally:
            a.close()
            b.close()


def pushed(files: dict[str, bytes], registry: RegistryServer, home: Path) -> str:
    tree = home / "tree"
    (tree / "small").mkdir(parents=True)
    for name, content in files.items():
        (tree / name).write_bytes(content)
    images.write_layout(home / "oci", [images.layer(tree, home / "tar")])
    return images.push(home / "oci", registry.address, "defects:1")


def read_anew(path: Path) -> bytes:
    """The file's bytes, asked of its server again: the kernel forgets what it knew of it."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def test_the_front_asks_a_cache_itself(cluster: Cluster, tmp_path: Path) -> None:
    """There, every read of the front went to the content cache before the storage layer."""
    cluster.paid(tmp_path / "ma")
    pid = cluster.b.mount(cluster.image, tmp_path / "mb")["pid"]
    assert read_anew(tmp_path / "mb/big") == cluster.files["big"]
    asked, reads = len(cluster.recorder.exchanges), front_reads(cluster.b, pid)
    assert asked > 0
    assert read_anew(tmp_path / "mb/big") == cluster.files["big"]
    assert front_reads(cluster.b, pid) > reads  # the front was asked again, and the disk answered
    assert len(cluster.recorder.exchanges) == asked
    known = "import sys, clipfs.mount.front.fuse; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", known], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "clipfs.mount.front.fuse" in loaded
    assert [name for name in loaded if "content" in name and name.startswith("clipfs")] == []


def front_reads(node: Node, pid: int) -> int:
    return sum(line["event"] == "Read called" for line in node.log(pid))


def test_per_file_hashes(cluster: Cluster, tmp_path: Path) -> None:
    """There, the cache held files by their own hashes: one request and one object a file."""
    layers = cluster.paid(tmp_path / "ma")
    pages = {
        f"{row['cache_key']}/{page:06d}"
        for row in layers
        for page in range(-(-row["payload_size"] // PAGE_BYTES))
    }
    host = hashlib.sha256(cluster.image.partition("/")[0].encode()).hexdigest()
    names = (".v1.toc", f".v1.origin.{host}")
    beside = {row["cache_key"] + name for row in layers for name in names}
    stored = cluster.stored()
    manifest = cluster.b.mount(cluster.image, tmp_path / "mb")["digest"].replace(":", "_")
    assert stored == pages | beside | {f"{manifest}.v1.erofs"}
    small = [name for name in cluster.files if name.startswith("small/")]
    before = len(cluster.recorder.exchanges)
    for name in small:
        assert (tmp_path / "mb" / name).read_bytes() == cluster.files[name]
    assert 1 <= len(cluster.recorder.exchanges) - before < len(small) / 4


def test_a_content_cache_that_never_reaches_the_storage_layer(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    """There, the client was configured and handed on as nil: everything came from the registry."""
    with run_registry(tmp_path / "registry") as registry:
        image = pushed(files, registry, tmp_path)
        (tmp_path / "key").write_text("the cluster's key\n")
        with run_content_server(tmp_path / "cc") as server:
            options = ["--content-cache", server.url,
                       "--content-cache-token-file", str(tmp_path / "cc/token"),
                       "--index-key-file", str(tmp_path / "key"),
                       "--plain-http", registry.address]  # fmt: skip # as typed by hand
            a, b = Node(tmp_path / "A", options), Node(tmp_path / "B", options)
            try:
                a.json("index", image)
                b.mount(image, tmp_path / "mb")
                assert registry.blob_reads()
                registry_gone = registry.log.read_text()
                assert (tmp_path / "mb/big").read_bytes() == files["big"]
                assert registry.log.read_text() == registry_gone
                stats = b.json("stats")
            finally:
                b.close()
    assert stats["registry"]["bytes"] == 0
    assert stats["content_cache"]["bytes"] >= len(files["big"])


def test_a_key_stored_one_way_and_looked_up_another(cluster: Cluster, tmp_path: Path) -> None:
    """There, a layer was stored under one name and asked for by another: never a hit."""
    layers = cluster.paid(tmp_path / "ma")
    stored = cluster.stored()
    at_a, missed_by_a = len(cluster.recorder.exchanges), missed(cluster)
    manifest = cluster.b.mount(cluster.image, tmp_path / "mb")["digest"].replace(":", "_")
    for name, content in cluster.files.items():
        assert (tmp_path / "mb" / name).read_bytes() == content
    asked = cluster.recorder.exchanges[at_a:]
    looked_up = [(key, status) for method, key, status in asked if method != "PUT"]
    assert {status for _, status in looked_up} <= {200, 206}
    assert {key for key, _ in looked_up} == stored  # pages, indexes and origin records
    digests = {row["digest"].replace(":", "_") for row in layers}
    assert {re.split(r"[/.]", key)[0] for key in stored} == digests | {manifest}
    assert {path.name for path in (cluster.a.root / "cache").iterdir()} == digests
    assert missed(cluster) == missed_by_a


def missed(cluster: Cluster) -> list[str]:
    """The keys that were asked for in vain."""
    logged = [json.loads(line) for line in cluster.server.log.read_text().splitlines()]
    return [line["key"] for line in logged if line["event"] == "content not found"]
