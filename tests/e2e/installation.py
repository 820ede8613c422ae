"""How the product comes into the cluster and goes, as by an administrator: by its chart, or by the
manifests that are rendered from it.

The tests share one installation at a time. Each names the values that it needs, and the product is
installed anew where those are others than the last test's. An installation begins on empty disks.

Not here: what is looked at then (`tests.e2e.product`).
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kubernetes import NODES, Cluster
from tests.e2e.product import NAMESPACE, NODE_PODS, Product
from tests.e2e.registries import PLAIN_HTTP
from tests.support.apiserver import manifest
from tests.support.helm import CHART, Values, merged
from tests.support.wait import wait_for

HERE = Path(__file__).parent
RELEASE = "clip"
PULL_SECRETS_OF = "allowed"
"""The namespace whose pods' imagePullSecrets the driver may use."""

TAINT = "clipfs.dev/not-ready"
LEAST: Values = {"registries": {"plainHttp": list(PLAIN_HTTP)}}
"""What must be set in such a cluster, beside the image."""

SUITE: Values = merged(
    LEAST,
    {
        "podPullSecrets": {"namespaces": [PULL_SECRETS_OF]},
        "node": {"startupTaint": TAINT},
        "networkPolicy": {
            "metricsFrom": [
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "clip-test"}}}
            ]
        },
    },
)
"""What most tests need."""

SECRETS = {
    "clip-index-key": "key",
    "clip-content-cache-token": "token",
    "clip-content-cache-read-token": "token",
}
"""That the manifests want: name -> key."""


@dataclass(slots=True)
class Installation:
    """image is our image's reference; values those of the release that is there, if one is."""

    cluster: Cluster
    image: str
    values: Values | None = None

    def need(self, values: Values) -> Product:
        """The product with these values, from the first byte if it had others."""
        if values != self.values:
            self.remove()
            self._install(values)
        return Product(self.cluster)

    def by_manifests(self, home: Path) -> Product:
        """The product by `kubectl apply` alone."""
        self.remove()
        self.cluster.make_namespace(NAMESPACE)
        for name, key in SECRETS.items():
            literal = f"--from-literal={key}={secrets.token_hex(32)}"
            self.cluster.kubectl("-n", NAMESPACE, "create", "secret", "generic", name, literal)
        self.cluster.kubectl("apply", "-k", str(_overlay(home, self.image)))
        cache = ("statefulset/clip-content-cache", "--timeout=180s")
        self.cluster.kubectl("-n", NAMESPACE, "rollout", "status", *cache)
        wait_for(self._nodes_are_ready, within_s=180)
        return Product(self.cluster)

    def upgrade(self, values: Values) -> None:
        """`helm upgrade`, which leaves the node plugin's pods as they are."""
        self._helm("upgrade", values, "--wait=legacy")
        self.values = values

    def uninstall(self) -> None:
        """`helm uninstall`; return when its pods are gone, too."""
        self.values = None
        words = ("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--ignore-not-found")
        self.cluster.helm(*words)
        wait_for(lambda: not self.cluster.objects("pod", namespace=NAMESPACE), within_s=120)

    def remove(self) -> None:
        """Whatever is installed, an earlier run's too; return when nothing of it is left."""
        everything = ("daemonset,statefulset", "--all", "--cascade=foreground", "--timeout=120s")
        # first, since a namespace that waits for pods looks again after a minute
        self.cluster.kubectl("-n", NAMESPACE, "delete", *everything)
        self.uninstall()
        manifests = ("-f", manifest("clip-csi.yaml"), "--ignore-not-found", "--timeout=120s")
        self.cluster.kubectl("delete", *manifests)
        for node in NODES if self.cluster.is_own else ():
            self.cluster.on(node, "find", "/images", "-xdev", "-mindepth", "1", "-delete")

    def _nodes_are_ready(self) -> bool:
        (found,) = self.cluster.objects("daemonset", namespace=NAMESPACE)
        status = found["status"]  # `rollout status` does not take OnDelete
        wanted, ready = int(status["desiredNumberScheduled"]), int(status["numberReady"])
        return 0 < wanted == ready

    def _install(self, values: Values) -> None:
        """AssertionError shows what stands in its way."""
        for namespace in values.get("podPullSecrets", {}).get("namespaces", ()):
            self.cluster.make_namespace(namespace)
        try:
            self._helm("install", values, "--create-namespace", "--wait")
        except AssertionError as error:
            why = self.cluster.kubectl("-n", NAMESPACE, "describe", "pods")
            logs = self.cluster.kubectl("-n", NAMESPACE, "logs", "-l", NODE_PODS, "--tail=20")
            raise AssertionError(f"{error}\n{why}\n{logs}") from None
        self.values = values

    def _helm(self, command: str, values: Values, *options: str) -> None:
        repository, _, tag = self.image.rpartition(":")
        said = merged(values, {"image": {"repository": repository, "tag": tag}})
        words = (command, RELEASE, str(CHART), "-n", NAMESPACE, "--timeout=3m", *options)
        self.cluster.helm(*words, "--values", "-", input=json.dumps(said))


@contextmanager
def installation(cluster: Cluster, home: Path, *, keep: bool = False) -> Iterator[Installation]:
    """Of our image, built of this checkout. The product goes at the end of the block, but for keep.

    E2E_IMAGE names an image in the cluster's registry that is taken instead.
    """
    made = Installation(cluster, os.environ.get("E2E_IMAGE") or _built_and_pushed(cluster, home))
    try:
        yield made
    finally:
        if not keep:
            made.remove()


def _overlay(home: Path, image: str) -> Path:
    """The manifests with what is this cluster's own: the image's place, PLAIN_HTTP."""
    name, _, tag = image.rpartition(":")
    argument = "/spec/template/spec/containers/0/args/-"
    patch = [{"op": "add", "path": argument, "value": f"--plain-http={one}"} for one in PLAIN_HTTP]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [Path(shutil.copy(manifest("clip-csi.yaml"), home)).name],
        "images": [{"name": "clip-csi", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "DaemonSet"}, "patch": json.dumps(patch)}],
    }
    (home / "kustomization.yaml").write_text(json.dumps(overlay))
    return home


def _built_and_pushed(cluster: Cluster, home: Path) -> str:
    """Named by its content, so that a node never takes an older one for it."""
    subprocess.run([str(HERE / "build-image"), f"{home}/oci:x"], check=True)
    index = json.loads((home / "oci/index.json").read_text())
    digest: str = index["manifests"][0]["digest"]
    return cluster.push(home / "oci", f"clip-csi:{digest.removeprefix('sha256:')[:12]}")
