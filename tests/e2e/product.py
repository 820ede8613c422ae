"""The product in the cluster: our image built and pushed, `manifests/plain` applied, looked at."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.kubernetes import DRIVER, NODES, Cluster
from tests.e2e.registries import PLAIN_HTTP
from tests.support.apiserver import manifest
from tests.support.wait import wait_for

HERE = Path(__file__).parent
NAMESPACE = "clip"
PULL_SECRETS_OF = "allowed"
"""The namespace whose pods' imagePullSecrets the driver may use."""

TAINT = "clipfs.dev/not-ready"
OPTIONS = (
    *(f"--plain-http={address}" for address in PLAIN_HTTP),
    f"--pod-pull-secrets={PULL_SECRETS_OF}",
    f"--startup-taint={TAINT}",
)
"""What an administrator adds to the manifests."""

MOUNTS = "/images/run/images/"
"""Where the driver mounts images: in the command line of each one's server, and of no other."""


@dataclass(frozen=True, slots=True)
class Product:
    """The driver on both nodes and a content cache, all ready."""

    cluster: Cluster

    def node_pod(self, node: str) -> str:
        """Name of the driver's pod on node."""
        found = self._kubectl(
            "get", "pod", "-l", "app=clip-node", "-o", "name",
            "--field-selector", f"spec.nodeName={self.cluster.nodes[node]}",
        )  # fmt: skip
        return found.strip()

    def on_driver(self, node: str, *words: str) -> str:
        """What a command in the driver's container on node says."""
        return self._kubectl("exec", self.node_pod(node), "--", *words)

    def stats(self, node: str) -> dict[str, Any]:
        """`clipfs stats` of node."""
        found: dict[str, Any] = json.loads(self.on_driver(node, "clipfs", "stats", "--json"))
        return found

    def log(self, node: str) -> str:
        """What the driver on node and the servers in its pod have logged."""
        return self._kubectl("logs", self.node_pod(node))

    def restarts(self, node: str) -> int:
        path = "jsonpath={.status.containerStatuses[0].restartCount}"
        return int(self._kubectl("get", self.node_pod(node), "-o", path))

    def address(self, node: str, port: str) -> str:
        """HOST:PORT of a named port of the driver's pod on node."""
        found = json.loads(self._kubectl("get", self.node_pod(node), "-o", "json"))
        (container,) = found["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        return f"{found['status']['podIP']}:{ports[port]}"

    def driver(self, node: str) -> int:
        """The driver's process below the container's PID 1, by the node's pid."""
        drivers = pids(self.cluster.on(node, "pgrep", "-f", "clip-csi node"))
        (child,) = (one for one in drivers if self._parent(node, one) in drivers)
        return child

    @contextmanager
    def frozen_driver(self, node: str) -> Iterator[None]:
        """The driver's process on node does nothing in the block."""
        driver = str(self.driver(node))
        self.cluster.on(node, "kill", "-STOP", driver)
        try:
            yield
        finally:
            self.cluster.on(node, "kill", "-CONT", driver)

    def replace_driver(self, node: str) -> None:
        """Delete the driver's pod on node; return when the next one is ready."""
        self._kubectl("delete", self.node_pod(node), "--timeout=60s")
        wait_for(lambda: self.node_pod(node))
        self._kubectl("wait", self.node_pod(node), "--for=condition=Ready", "--timeout=60s")

    def is_ready(self, node: str) -> bool:
        """Whether the kubelet takes the driver's pod on node for ready."""
        path = "jsonpath={.status.containerStatuses[0].ready}"
        return self._kubectl("get", self.node_pod(node), "-o", path) == "true"

    def servers(self, node: str) -> list[int]:
        """Processes that serve images on node."""
        return pids(self.cluster.on(node, "pgrep", "-f", MOUNTS, check=False))

    def disk_bytes(self, node: str, layers: tuple[str, ...]) -> int:
        """What node's disk holds of the payloads of layers, whole or in part."""
        names = [layer.replace(":", "_") for layer in layers]
        paths = [f"/images/{kind}/{name}" for kind in ("cache", "partial") for name in names]
        script = 'for path; do test ! -e "$path" || stat --format="%b %B" "$path"; done'
        said = self.on_driver(node, "sh", "-c", script, "sh", *paths)
        return sum(int(blocks) * int(size) for blocks, size in map(str.split, said.splitlines()))

    def leftovers(self, node: str) -> list[str]:
        """All that volumes leave on node while they are there: empty when they are gone."""
        kubelet, images = "/var/lib/kubelet/pods", "/images/run"
        find = "find {} -xdev {} 2>/dev/null || true"
        seen = [
            self.on_driver(node, "sh", "-c", script)
            for script in (
                "grep -E ' (fuse.clip|erofs) ' /proc/mounts || true",
                find.format(images, "-name *.json"),
                find.format(MOUNTS, "-mindepth 1"),
                find.format(kubelet, "-path '*~csi/*'"),
            )
        ]
        if self.cluster.is_own:
            mounts = f" ({kubelet}|{images})/[^ ]* (fuse.clip|erofs) "  # not the machine's own
            seen += [
                self.cluster.on(node, "grep", "-E", mounts, "/proc/mounts", check=False),
                self.cluster.on(node, "pgrep", "-af", MOUNTS, check=False),
            ]
        return [line for said in seen for line in said.splitlines()]

    def _parent(self, node: str, pid: int) -> int:
        said = self.cluster.on(node, "ps", "-o", "ppid=", "-p", str(pid), check=False)
        return int(said or 0)

    def _kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("-n", NAMESPACE, *words)


def pids(said: str) -> list[int]:
    return [int(line) for line in said.split()]


@contextmanager
def installed_product(cluster: Cluster, home: Path, *, keep: bool = False) -> Iterator[Product]:
    """Our image, built of this checkout, from the first byte: nodes begin with empty disks. The
    product goes at the end of the block, but for keep.

    E2E_IMAGE names an image in the cluster's registry that is taken instead.
    """
    image = os.environ.get("E2E_IMAGE") or _built_and_pushed(cluster, home)
    _uninstall(cluster)
    try:
        _install(cluster, image, home)
        _wait_installed(cluster)
        yield Product(cluster)
    finally:
        if not keep:
            _uninstall(cluster)


def _built_and_pushed(cluster: Cluster, home: Path) -> str:
    """Named by its content, so that a node never takes an older one for it."""
    subprocess.run([str(HERE / "build-image"), f"{home}/oci:x"], check=True)
    index = json.loads((home / "oci/index.json").read_text())
    digest: str = index["manifests"][0]["digest"]
    return cluster.push(home / "oci", f"clip-csi:{digest.removeprefix('sha256:')[:12]}")


def _install(cluster: Cluster, image: str, home: Path) -> None:
    """The one place that knows how the product is installed, with `_uninstall`: by the manifests
    for now, by the chart when there is one."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for name, key in (("clip-index-key", "key"), ("clip-content-cache-token", "token")):
        cluster.apply(_secret(name, key))
    cluster.kubectl("apply", "-k", str(_overlay(home, image)))
    cluster.kubectl("apply", "-f", manifest("examples/startup-taint.yaml"))


def _uninstall(cluster: Cluster) -> None:
    """Whatever is installed, an earlier run's too."""
    cluster.kubectl(  # first, since a namespace that waits for pods looks again after a minute
        "-n", NAMESPACE, "delete", "daemonset,statefulset", "--all", "--cascade=foreground",
        "--timeout=60s",
    )  # fmt: skip
    for kind, path in (("-f", "examples/startup-taint.yaml"), ("-k", "plain")):
        cluster.kubectl("delete", kind, manifest(path), "--ignore-not-found", "--timeout=60s")
    for node in NODES if cluster.is_own else ():
        cluster.on(node, "find", "/images", "-xdev", "-mindepth", "1", "-delete")


def _wait_installed(cluster: Cluster) -> None:
    """Return when all is ready; AssertionError shows what stands in its way."""
    try:
        for what, count in (("daemonset", "numberReady"), ("statefulset", "readyReplicas")):
            wanted = len(NODES) if what == "daemonset" else 1
            cluster.kubectl(
                "-n", NAMESPACE, "wait", what, "--all", "--timeout=120s",
                f"--for=jsonpath={{.status.{count}}}={wanted}",
            )  # fmt: skip
        wait_for(lambda: set(cluster.nodes.values()) <= _registered(cluster), within_s=60)
    except AssertionError as error:
        why = cluster.kubectl("-n", NAMESPACE, "describe", "pods")
        logs = cluster.kubectl("-n", NAMESPACE, "logs", "-l", "app=clip-node", "--tail=20")
        raise AssertionError(f"{error}\n{why}\n{logs}") from None


def _registered(cluster: Cluster) -> set[str]:
    """Nodes whose kubelet knows the driver."""
    nodes = json.loads(cluster.kubectl("get", "csinode", "-o", "json"))["items"]
    return {
        node["metadata"]["name"]
        for node in nodes
        for driver in node["spec"]["drivers"] or []
        if driver["name"] == DRIVER
    }


def _overlay(home: Path, image: str) -> Path:
    """The manifests with what is this cluster's own: the image's place, OPTIONS."""
    folder = home / "overlay"
    folder.mkdir()
    argument = "/spec/template/spec/containers/0/args/-"
    name, _, tag = image.rpartition(":")
    patch = [{"op": "add", "path": argument, "value": option} for option in OPTIONS]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(manifest("plain"), folder.resolve())],
        "images": [{"name": "clip-csi", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "DaemonSet"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))
    return folder


def _secret(name: str, key: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": {key: secrets.token_hex(32)},
    }
