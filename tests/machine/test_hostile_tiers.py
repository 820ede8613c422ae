"""An image of a hostile registry cannot poison what another image reads, over either tier 2.

It names a popular layer's digest before anybody has seen the real one, and serves other bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.content import run_content_server
from tests.support.images import LAYER_TYPES, Packed
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.s3_server import S3Server
from tests.support.scripted_registry import run_scripted_registry
from tests.support.tier2 import Tier2, of_bucket, of_server
from tests.support.two_nodes import nodes_of, options_of_server, stored, tier2_options

pytestmark = needs_fuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Popular:
    """An image of one layer, not pushed yet."""

    layout: Path
    digest: str
    diff_id: str
    content: bytes

    @property
    def key(self) -> str:
        return self.digest.replace(":", "_")


@pytest.fixture
def popular(tmp_path: Path) -> Popular:
    """Another one for each test: nobody has seen it."""
    tree = tmp_path / "popular"
    (tree / "lib").mkdir(parents=True)
    content = hashlib.sha256(str(tmp_path).encode()).digest() * (1 << 15)
    (tree / "lib/popular.so").write_bytes(content)
    layer = images.layer(tree, tmp_path / "popular.tar")
    images.write_layout(tmp_path / "oci", [layer])
    return Popular(
        layout=tmp_path / "oci",
        digest=_digest(layer.blob("gzip")),
        diff_id=_digest(layer.tar.read_bytes()),
        content=content,
    )


@pytest.fixture(params=["http", "s3"])
def cluster(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tier2, list[str]]]:
    """An empty tier 2, and what nodes are told of it."""
    if request.param == "http":
        with run_content_server(tmp_path / "cc") as server:
            yield of_server(server), options_of_server(server, tmp_path)
        return
    s3: S3Server = request.getfixturevalue("s3_server")
    s3.use(monkeypatch)
    tier2 = of_bucket("shared")
    yield tier2, tier2_options(tier2.url, None, tmp_path)


def hostile_layout(popular: Popular, home: Path, *, diff_id: str, blob: bytes) -> Path:
    """An image that names the popular layer, and holds blob under its digest."""
    blobs = home / "blobs/sha256"
    blobs.mkdir(parents=True)
    (blobs / popular.digest.partition(":")[2]).write_bytes(blob)
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [diff_id]}
    layer = {"mediaType": LAYER_TYPES["gzip"], "digest": popular.digest, "size": len(blob)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _put(blobs, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    }
    entry = _put(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    (home / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return home


def _put(blobs: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = _digest(data)
    (blobs / digest.partition(":")[2]).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _evil(home: Path) -> Packed:
    tree = home / "evil"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib/popular.so").write_bytes(b"evil" * 100_000)
    return images.layer(tree, home / "evil.tar")


@pytest.mark.parametrize("lie", ["other bytes", "other bytes of that diff_id", "a wrong diff_id"])
def test_a_popular_layers_digest_with_other_bytes_is_refused_and_poisons_nobody(
    lie: str,
    popular: Popular,
    cluster: tuple[Tier2, list[str]],
    registry: RegistryServer,
    tmp_path: Path,
) -> None:
    tier2, options = cluster
    evil = _evil(tmp_path)
    blob, diff_id = evil.blob("gzip"), popular.diff_id
    if lie == "other bytes of that diff_id":
        diff_id = _digest(evil.tar.read_bytes())
    elif lie == "a wrong diff_id":  # the right blob, and an index of it would name another payload
        blob, diff_id = _real_blob(popular), _digest(evil.tar.read_bytes())
    layout = hostile_layout(popular, tmp_path / "hostile", diff_id=diff_id, blob=blob)
    with run_scripted_registry(layout) as hostile:
        words = [*options, "--plain-http", hostile.address, "--plain-http", registry.address]
        with nodes_of(tmp_path, "AB", words) as (a, b):
            refused = _refusal(a, f"{hostile.address}/popular/image:1", tmp_path / "mh")
            assert refused["code"] == "corrupt_image"
            assert hostile.layer_reads()  # it was believed so far
            stored(a)
            assert tier2.read(f"{popular.key}.v1.toc") is None
            assert tier2.read(f"{popular.key}/000000") is None

            image = images.push(popular.layout, registry.address, f"popular/{popular.key[-8:]}:1")
            for node in (a, b):
                for front in ("auto", "fuse"):
                    mountpoint = tmp_path / f"m-{node.root.name}-{front}"
                    node.mount(image, mountpoint, "--front", front)
                    assert (mountpoint / "lib/popular.so").read_bytes() == popular.content
                stored(node)
            assert b.json("stats")["registry"]["bytes"] == 0
            assert b.json("stats")["content_cache"]["verify_failures"] == 0


def _real_blob(popular: Popular) -> bytes:
    return (popular.layout / "blobs/sha256" / popular.digest.partition(":")[2]).read_bytes()


def _refusal(node: Node, image: str, mountpoint: Path) -> dict[str, str]:
    words = ["--root", str(node.root), *node.options, "--json"]
    done = node.run("mount", image, str(mountpoint), *words, check=False)
    assert done.returncode == 1, done.stdout
    assert not mountpoint.exists()
    error: dict[str, str] = json.loads(done.stdout)["error"]
    return error
