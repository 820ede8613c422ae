"""Registry, content cache and node plugins, started on a stage as an operator would.

All listen on loopback, on ports that the kernel picks.
"""

import json
import re
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.kubelet import Kubelet
from demo.stage import Stage

_BIN = Path(sys.executable).parent
CLIPFS, CLIP_CSI = str(_BIN / "clipfs"), str(_BIN / "clip-csi")
TIERS = ("disk", "content_cache", "registry")

_REGISTRY_CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {data}}}}}
http: {{addr: "127.0.0.1:0"}}
log: {{accesslog: {{disabled: false}}, level: info, formatter: json}}
"""
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_REQUEST = re.compile(r'"(GET|HEAD) /v2/\S+/(manifests|blobs)/(\S+) HTTP/1\.1" 2\d\d ')


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A running OCI registry (CNCF distribution): `address` is host:port."""

    address: str
    data: Path
    log: Path

    def reads(self) -> list[tuple[str, str]]:
        """What it has answered so far: ("manifests" or "blobs", tag or digest), in order."""
        return [(kind, name) for _, kind, name in _REQUEST.findall(self.log.read_text())]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentCache:
    """A running content cache: its objects' folder, and what its clients are told."""

    data: Path
    options: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running node plugin with a root and a kubelet of its own."""

    stage: Stage
    name: str
    root: Path
    kubelet: Kubelet

    def stats(self) -> dict[str, Any]:
        """`clipfs stats` of this node."""
        said = self.stage.run(CLIPFS, "stats", "--json", "--root", str(self.root))
        found: dict[str, Any] = json.loads(said)
        return found

    def moved(self) -> dict[str, int]:
        """Bytes by tier so far."""
        stats = self.stats()
        return {tier: stats[tier]["bytes"] for tier in TIERS}

    def payload_on_disk(self) -> int:
        """Bytes of layers that the node's disk holds; holes do not count."""
        files = [*(self.root / "cache").iterdir(), *(self.root / "partial").iterdir()]
        return sum(file.stat().st_blocks * 512 for file in files)


def start_registry(stage: Stage) -> Registry:
    """An empty registry."""
    data, config = stage.folder / "registry", stage.folder / "registry.yml"
    config.write_text(_REGISTRY_CONFIG.format(data=data))
    service = stage.start("registry", "docker-registry", "serve", str(config))
    match = service.wait_for(lambda: _LISTENING.search(service.log.read_text()))
    return Registry(address=match[1], data=data, log=service.log)


def start_content_cache(stage: Stage) -> ContentCache:
    """An empty content cache with a fresh token."""
    data, token_file = stage.folder / "content-cache", _secret(stage, "token")
    service = stage.start(
        "content cache", CLIPFS, "content-cache", "serve", "--dir", str(data),
        "--listen", "127.0.0.1:0", "--token-file", str(token_file), "--json",
    )  # fmt: skip
    match = service.wait_for(lambda: re.search(r'^\{.*"port".*\}$', service.log.read_text(), re.M))
    url = f"http://127.0.0.1:{json.loads(match[0])['port']}"
    options = ("--content-cache", url, "--content-cache-token-file", str(token_file))
    return ContentCache(data=data, options=options)


def start_node(
    stage: Stage, name: str, registry: Registry, index_key: Path, options: Sequence[str] = ()
) -> Node:
    """A node plugin; options are its content cache's, where it has one."""
    home = stage.folder / name.replace(" ", "-")
    root, folder, endpoint = home / "images", home / "kubelet", home / "csi.sock"
    root.mkdir(parents=True, exist_ok=True)
    service = stage.start(
        name, CLIP_CSI, "node", "--front", "fuse", "--endpoint", f"unix://{endpoint}",
        "--node-id", name.replace(" ", "-"), "--kubelet-root", str(folder), "--root", str(root),
        "--index-key-file", str(index_key), "--plain-http", registry.address, *options,
    )  # fmt: skip
    service.wait_for(lambda: _answers(endpoint))
    return Node(stage=stage, name=name, root=root, kubelet=Kubelet(folder, endpoint))


def new_index_key(stage: Stage) -> Path:
    """The cluster's key, with which nodes sign the layer indexes that they share."""
    return _secret(stage, "index-key")


def _secret(stage: Stage, name: str) -> Path:
    path = stage.folder / name
    path.write_text(secrets.token_hex(32) + "\n")
    path.chmod(0o600)
    return path


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
