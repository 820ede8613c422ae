"""What is where in the cluster: folders, addresses, names."""

import os
from pathlib import Path

from tests.support.cluster_programs import BIN, CACHE

STATE = Path(os.environ.get("CLUSTER_STATE") or CACHE / "state").absolute()
"""All that the running cluster keeps; not on an overlay, which takes no overlay on itself."""

ADMIN = STATE / "admin.kubeconfig"
CONTROL = "n0"
NETWORK = "10.88.0"
API = f"{NETWORK}.1"
REGISTRY = f"{API}:5000"
"""Plain HTTP; the same from nodes and from pods."""

SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"
DOMAIN = "cluster.local"


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


def nodes() -> list[str]:
    """Nodes of the cluster that is up, none if none is."""
    listed = STATE / "nodes"
    return listed.read_text().split() if listed.exists() else []


def address(node: str) -> str:
    return f"{NETWORK}.1{node.removeprefix('n')}"


def pods_of(node: str) -> str:
    """The network of its pods."""
    return f"10.244.{node.removeprefix('n')}.0/24"


def folder_of(node: str) -> Path:
    return STATE / node


def environment() -> dict[str, str]:
    """Of every program and client: ours are found first."""
    path = f"{BIN}:/usr/sbin:/sbin:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "KUBECONFIG": str(ADMIN)}
