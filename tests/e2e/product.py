"""The product in the cluster, looked at. Not here: how it gets there (`tests.e2e.installation`)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.kubernetes import Cluster
from tests.support.wait import wait_for

NAMESPACE = "clip"
NODE_PODS = "app.kubernetes.io/name=clip-csi,app.kubernetes.io/component=node"
CACHE_PODS = "app.kubernetes.io/name=clip-csi,app.kubernetes.io/component=content-cache"
MOUNTS = "/images/run/images/"
"""Where the driver mounts images: in the command line of each one's server, and of no other."""


@dataclass(frozen=True, slots=True)
class Product:
    """The driver on both nodes and the content cache, all ready."""

    cluster: Cluster

    def node_pod(self, node: str) -> str:
        """Name of the driver's pod on node."""
        found = self._kubectl(
            "get", "pod", "-l", NODE_PODS, "-o", "name",
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

    def image(self, node: str) -> str:
        """Our image, as the driver's pod on node names it."""
        path = "jsonpath={.spec.containers[0].image}"
        return self._kubectl("get", self.node_pod(node), "-o", path)

    def content_cache_pods(self) -> list[str]:
        """Names of its replicas."""
        return [
            one["metadata"]["name"]
            for one in self.cluster.objects("pods", namespace=NAMESPACE)
            if one["metadata"]["ownerReferences"][0]["kind"] == "StatefulSet"
        ]

    def delete_content_cache(self, *pods: str) -> None:
        """Return when these replicas are gone with what they had, and others on their way."""
        self._kubectl("delete", "pod", *pods, "--timeout=60s")

    def wait_content_cache(self, count: int) -> None:
        """Return when so many replicas are ready."""
        ready = f"--for=jsonpath={{.status.readyReplicas}}={count}"
        self._kubectl("wait", "statefulset", "--all", ready, "--timeout=60s")

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
        self.delete_driver(node)
        self.wait_driver(node)

    def delete_driver(self, node: str) -> None:
        """Return when the driver's pod on node is gone, and the next one on its way."""
        self._kubectl("delete", self.node_pod(node), "--timeout=60s")

    def wait_driver(self, node: str) -> None:
        """Return when the driver's pod on node is ready."""
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
