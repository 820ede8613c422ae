"""What is left after `helm uninstall`: layers in `imagesDir`, until they are removed, and nothing
else; and that the rendered manifests alone bring the same."""

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.installation import LEAST, Installation
from tests.e2e.kubernetes import DRIVER, NODES, Cluster
from tests.e2e.objects import example, inline, pod
from tests.e2e.product import NAMESPACE
from tests.e2e.sample import Sample
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_an_uninstall_leaves_the_cached_layers_and_nothing_else_on_any_node(
    image: str, sample: Sample, installed: Installation, cluster: Cluster
) -> None:
    pods = Pods(installed.need(LEAST))
    pods.run(*(pod(f"reads-{node}", node, inline(image)) for node in NODES))
    pods.delete_all()
    installed.uninstall()
    everywhere = {node: at_last(partial(left_on, cluster, node)) for node in NODES}
    assert everywhere == {node: [] for node in NODES}
    assert any(cluster.on(node, "ls", "/images/cache") for node in NODES)
    assert at_last(partial(objects_left, cluster)) == []

    remove = json.dumps(example("remove-images"))
    cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", input=remove)
    words = ("rollout", "status", "daemonset/clip-remove-images", "--timeout=60s")
    cluster.kubectl("-n", NAMESPACE, *words)
    cluster.kubectl("-n", NAMESPACE, "delete", "-f", "-", input=remove)
    for node in NODES:
        assert cluster.on(node, "find", "/images", "-mindepth", "1") == ""


def at_last(left: Callable[[], list[str]]) -> list[str]:
    """What is left once nothing is, or has been for a while: the kubelet looks now and then."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not left())
    return left()


def left_on(cluster: Cluster, node: str) -> list[str]:
    """Mounts, processes, sockets and folders of the product, what it cached apart."""
    mounts = " (/images|/var/lib/kubelet)/[^ ]* (fuse.clip|erofs) |/images/run/|csi.clipfs"
    said = [
        cluster.on(node, "grep", "-E", mounts, "/proc/mounts", check=False),
        cluster.on(node, "pgrep", "-af", "clip-csi node|clipfs |/images/run/", check=False),
        cluster.on(node, "find", "/var/lib/kubelet", "-xdev", "-name", f"*{DRIVER}*"),
        cluster.on(node, "find", "/var/lib/kubelet/pods", "-xdev", "-path", "*~csi/*"),
    ]
    return [line for one in said for line in one.splitlines()]


def objects_left(cluster: Cluster) -> list[str]:
    """All that is in its namespace, or bears its name, but for what each namespace has."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    inside = ",".join(kind for kind in kinds if not kind.startswith("events"))
    found = cluster.kubectl("-n", NAMESPACE, "get", inside, "-o", "name").split()
    kinds = cluster.kubectl(
        "api-resources", "--verbs=list", "--namespaced=false", "-o", "name"
    ).split()
    named = cluster.kubectl("get", ",".join(kinds), "-o", "name").split()
    found += [one for one in named if "clip" in one and one != f"namespace/{NAMESPACE}"]
    nodes = json.loads(cluster.kubectl("get", "csinode", "-o", "json"))["items"]
    found += [
        f"csinode/{node['metadata']['name']}"
        for node in nodes
        if DRIVER in [one["name"] for one in node["spec"]["drivers"] or ()]
    ]
    every = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return [one for one in found if one not in every]


def test_the_rendered_manifests_alone_bring_the_same(
    image: str, sample: Sample, installed: Installation, cluster: Cluster, tmp_path: Path
) -> None:
    product = installed.by_manifests(tmp_path)
    pods = Pods(product)
    try:
        pods.run_and_store(image, "n1")
        begin = len(cluster.registry.requests())
        pods.run(pod("second", "n2", inline(image)))
        path, digest = next(iter(sample.files.items()))
        for name in ("first", "second"):
            assert cluster.exec(name, "sha256sum", f"/image/{path}").split()[0] == digest
        asked = [path for _, path, _ in cluster.registry.requests()[begin:]]
        assert not [path for path in asked if path.rpartition("/")[2] in sample.layers]
        assert product.stats("n2")["content_cache"]["bytes"] > 0
        assert len(cluster.objects("clipmounts")) == 2
    finally:
        pods.delete_all()
