"""`kubectl describe pod` of a pod that fails, in a real cluster: the reason and the way out in one
line, of the driver's own event and of the kubelet's.

A full disk is missing here: it would be the machine's own (`tests/csi/cluster` has it).
"""

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.registries import DENYING, DOWN, FOREIGN, Registries
from tests.e2e.sample import RandomImage, random_image
from tests.support.apiserver import docker_config
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAMESPACE = "failures"
GOLDEN = {
    "wrong-tag": "NotFound: IMAGE: no such image in the registry (manifest unknown); check its "
    "name and its tag",
    "no-credentials": "Unauthenticated: IMAGE: the registry wants credentials, or other ones "
    "(authentication required); there may also be no such repository: no credentials: give the "
    "volume a nodePublishSecretRef, or let the driver read the pod's imagePullSecrets by adding "
    "its namespace failures to podPullSecrets.namespaces",
    "denied": "PermissionDenied: IMAGE: the registry refuses; these credentials may not pull it; "
    "the credentials came from nodePublishSecretRef: let that account pull, or give the volume "
    "another",
    "down": f"Unavailable: IMAGE: no answer from {DOWN}: Connection refused; "
    "is it up, and can this node reach it?",
    "corrupt-layer": "DataLoss: IMAGE: layer LAYER: gzip: Error -6 Incorrect checksum found; push "
    "the image again, or look for a proxy that changes it",
    "media-type": "FailedPrecondition: IMAGE: a layer is foreign ('application/vnd.docker.image."
    "rootfs.foreign.diff.tar.gzip'), its bytes are not in the registry; convert the image, or push "
    "it again with a current tool",
}
"""gRPC code, and the text but for the name of the image and the digest of a layer."""


def damage(cluster: Cluster, made: RandomImage) -> None:
    """The registry's disk has another last byte of the image's one layer."""
    (digest,) = made.layers
    store = cluster.home / "registry/docker/registry/v2/blobs/sha256"
    name = digest.removeprefix("sha256:")
    path = store / name[:2] / name / "data"
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))


def reasons(cluster: Cluster, name: str) -> tuple[str, str]:
    """What the driver's event says, once the kubelet has said it too, and what that says."""

    def both() -> tuple[str, str] | None:
        ours = [one for one in cluster.events(name, namespace=NAMESPACE) if "ClipFailed" in one]
        theirs = cluster.events(name, namespace=NAMESPACE, of="kubelet")
        failed = [one for one in theirs if "FailedMount" in one]
        return (ours[0], failed[0]) if ours and failed else None

    return wait_for(both, within_s=90)


def test_each_failure_tells_its_reason_and_the_way_out_in_one_line(
    registries: Registries, cluster: Cluster, pods: Pods, tmp_path: Path
) -> None:
    cluster.make_namespace(NAMESPACE)
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    metadata = {"name": "account", "namespace": NAMESPACE}
    cluster.apply({**secret, "metadata": metadata, "data": docker_config(DENYING, "me", "mine")})
    whole = random_image(tmp_path / "whole")
    broken = random_image(tmp_path / "broken")
    images = {
        "wrong-tag": cluster.push(whole.layout, "failing:1").replace(":1", ":2"),
        "no-credentials": registries.push_private(whole.layout, "failing:1"),
        "denied": f"{DENYING}/failing:1",
        "down": f"{DOWN}/failing:1",
        "corrupt-layer": cluster.push(broken.layout, "corrupt:1"),
        "media-type": f"{FOREIGN}/failing:1",
    }
    damage(cluster, broken)
    for name, image in images.items():
        volume = inline(image, secret="account" if name == "denied" else None)
        pods.make(pod(name, "n1", volume, namespace=NAMESPACE))
    found = {}
    for name, image in images.items():
        ours, kubelets = reasons(cluster, name)
        code, text = kubelets.split(" code = ")[1].split(" desc = ", 1)
        assert ours == f"Warning ClipFailed {text}"
        found[name] = re.sub(r"sha256:[0-9a-f]{64}", "LAYER", f"{code}: {text}")
        found[name] = found[name].replace(image, "IMAGE")
        print(kubelets)
    assert found == GOLDEN
