"""An installation with no value set but the image and `registries.plainHttp`: two nodes, crowds, an
upgrade, a drain. Not here: its end (`test_uninstall.py`).

Prints what each took, in seconds, memory and requests; asserts none of the seconds.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.costs import memory_table, requests_of_nodes
from tests.e2e.installation import LEAST, Installation
from tests.e2e.kubernetes import NODE_LABEL, NODES, Cluster
from tests.e2e.objects import example, inline, pod
from tests.e2e.product import NAMESPACE, Product
from tests.e2e.sample import Sample, random_image
from tests.support.helm import merged
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MOST_REQUESTS = 10
"""Of a volume, from its pod's beginning to its end: 5, and news of an image that has to come."""


@pytest.fixture
def product(installed: Installation) -> Product:
    return installed.need(LEAST)


@contextmanager
def took(what: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begin:.1f} s")


def digests(cluster: Cluster, name: str) -> dict[str, str]:
    """Of all regular files in the pod's volume: path -> sha256."""
    script = "cd /image && find . -type f -exec sha256sum {} +"
    pairs = [line.split("  ./", 1) for line in cluster.exec(name, "sh", "-c", script).splitlines()]
    return {path: digest for digest, path in pairs}


def check_whole(cluster: Cluster, names: Sequence[str], sample: Sample) -> None:
    """Each pod reads every file of sample as it is."""

    def wrong(name: str) -> list[str]:
        found = digests(cluster, name)
        return [path for path, digest in sample.files.items() if found.get(path) != digest]

    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(names, pool.map(wrong, names), strict=True)) == {name: [] for name in names}


def wait_stored(product: Product, node: str) -> None:
    """Return when the content cache has what node has."""
    wait_for(lambda: not product.stats(node)["storing"])


def phases(cluster: Cluster) -> list[str]:
    return [one.get("status", {}).get("phase", "") for one in cluster.objects("clipmounts")]


def replicas(cluster: Cluster, name: str) -> dict[str, str]:
    """Names of a Deployment's pods that are not on their way out -> their nodes."""
    return {
        one["metadata"]["name"]: one["spec"].get("nodeName", "")
        for one in cluster.objects("pod")
        if one["metadata"].get("labels", {}).get("app") == name
        and "deletionTimestamp" not in one["metadata"]
    }


def run_deployment(pods: Pods, image: str, count: int) -> None:
    """The example's; return when all are available."""
    made = example("deployment", image)
    made["spec"]["replicas"] = count
    pods.make(made)
    where = ("deployment/many-readers", "--timeout=300s")
    pods.product.cluster.kubectl("rollout", "status", *where)


@pytest.mark.parametrize("fresh", ["gzip"], indirect=True)
def test_the_example_runs_on_one_node_and_then_on_the_other_without_the_registrys_layers(
    fresh: Sample, product: Product, cluster: Cluster, pods: Pods
) -> None:
    image = cluster.push(fresh.layout, "example:1")
    for node in NODES:
        begin = len(cluster.registry.requests())
        made = example("inline-volume", image)
        made["metadata"] |= {"name": f"hello-{node}", "namespace": "default"}
        made["spec"] |= {"nodeSelector": {NODE_LABEL: node}, "terminationGracePeriodSeconds": 1}
        with took(f"the example on {node}, apply to Ready"):
            pods.run(made)
        wait_stored(product, node)
        check_whole(cluster, [f"hello-{node}"], fresh)
        asked = {path for _, path, _ in cluster.registry.requests()[begin:]}
        blobs = {f"/v2/example/blobs/{layer}" for layer in fresh.layers}
        assert any(path.startswith("/v2/example/manifests/") for path in asked)
        assert blobs & asked == (blobs if node == "n1" else set())


def test_twenty_replicas_over_both_nodes_read_the_image_as_it_is(
    image: str, sample: Sample, product: Product, cluster: Cluster, pods: Pods
) -> None:
    with took("a Deployment of 20 replicas, apply to available"):
        run_deployment(pods, image, 20)
    where = replicas(cluster, "many-readers")
    assert len(where) == 20
    assert set(where.values()) == set(cluster.nodes.values())
    check_whole(cluster, list(where), sample)
    for node in NODES:
        assert len(product.stats(node)["mounts"]) == 1
        print(f"10 pods of one image:\n{memory_table(product, node)}")


def test_thirty_pods_with_ten_images_at_once_read_each_its_own(
    product: Product, cluster: Cluster, pods: Pods, tmp_path: Path
) -> None:
    made = [random_image(tmp_path / str(number), layers=2) for number in range(10)]
    names = [cluster.push(one.layout, f"crowd-{number}:1") for number, one in enumerate(made)]
    crowd = {f"crowd-{number}": number % 10 for number in range(30)}
    with requests_of_nodes(cluster) as asked:
        with took("30 pods of 10 images, apply to Ready"):
            pods.run(
                *(
                    pod(name, NODES[at // 10 % 2], inline(names[number]))
                    for at, (name, number) in enumerate(crowd.items())
                )
            )
        for name, number in crowd.items():
            said = cluster.exec(name, "sha256sum", "/image/0/data", "/image/1/data")
            assert [line.split()[0] for line in said.splitlines()] == list(made[number].data)
        wait_for(lambda: phases(cluster).count("Mounted") == 30)
        for node in NODES:
            print(f"all 30 pods:\n{memory_table(product, node)}")
        pods.delete_all()
        wait_for(lambda: not cluster.objects("clipmounts"))
    print(f"{asked.total() / 30:.1f} requests to the API server a volume: {dict(asked)}")
    assert asked["create events"] >= 30
    assert asked.total() <= 30 * MOST_REQUESTS


def test_an_upgrade_and_a_drain_lose_no_secret_and_no_read(
    image: str,
    sample: Sample,
    installed: Installation,
    product: Product,
    cluster: Cluster,
    pods: Pods,
) -> None:
    pods.run_and_store(image, "n1")
    run_deployment(pods, image, 4)
    secrets, drivers = secrets_of(cluster), {node: product.node_pod(node) for node in NODES}
    assert len(secrets) == 3
    debug = merged(LEAST, {"node": {"logLevel": "debug"}, "contentCache": {"logLevel": "warning"}})
    with took("helm upgrade, the content cache's pods replaced"):
        installed.upgrade(debug)
    assert secrets_of(cluster) == secrets
    assert {node: product.node_pod(node) for node in NODES} == drivers, "OnDelete"
    check_whole(cluster, list(replicas(cluster, "many-readers")), sample)

    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
    with took("kubectl drain"):
        cluster.kubectl("drain", cluster.nodes["n2"], *words)
    try:
        cluster.kubectl("rollout", "status", "deployment/many-readers", "--timeout=120s")
        where = replicas(cluster, "many-readers")
        assert set(where.values()) == {cluster.nodes["n1"]}
        check_whole(cluster, list(where), sample)
        wait_for(lambda: not product.leftovers("n2"))
        product.replace_driver("n2")
    finally:
        cluster.kubectl("uncordon", cluster.nodes["n2"])
    assert "--log-level=debug" in arguments(cluster, product.node_pod("n2"))
    assert "--log-level=debug" not in arguments(cluster, product.node_pod("n1"))
    with took("a pod on the node that came back, apply to Ready"):
        pods.run(pod("after", "n2", inline(image)))
    check_whole(cluster, ["after"], sample)


def secrets_of(cluster: Cluster) -> dict[str, dict[str, str]]:
    return {
        one["metadata"]["name"]: one["data"]
        for one in cluster.objects("secret", namespace=NAMESPACE)
        if one["type"] == "Opaque"
    }


def arguments(cluster: Cluster, name: str) -> list[str]:
    found = json.loads(cluster.kubectl("-n", NAMESPACE, "get", name, "-o", "json"))
    words: list[str] = found["spec"]["containers"][0]["args"]
    return words
