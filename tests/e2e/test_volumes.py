"""Volumes as a user of Kubernetes sees them, in a real cluster of two nodes.

Every test's pods are deleted at its end, which fails unless both nodes are as if the pods had
never been: no mount, no server, no record, no folder (`Pods.delete_all`).
"""

import json

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import NODES, Cluster
from tests.e2e.objects import claimed, inline, persistent, pod, secret
from tests.e2e.product import Product
from tests.e2e.sample import Sample
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def digest_in(cluster: Cluster, name: str, path: str, container: str = "main") -> str:
    """sha256 of a file as a container of the pod reads it."""
    return cluster.exec(name, "sha256sum", path, container=container).split()[0]


def test_the_driver_registers_itself_on_every_node(product: Product) -> None:
    nodes = json.loads(product.cluster.kubectl("get", "csinode", "-o", "json"))["items"]
    found = {
        driver["nodeID"]
        for node in nodes
        for driver in node["spec"]["drivers"]
        if driver["name"] == "csi.clipfs.dev"
    }
    assert found == set(product.cluster.nodes.values())


@pytest.mark.parametrize("fresh", ["gzip"], indirect=True)
def test_the_first_node_pays_and_the_second_asks_the_registry_for_no_layer(
    fresh: Sample, product: Product, cluster: Cluster, pods: Pods
) -> None:
    image = cluster.push(fresh.layout, "first-and-second:1")
    layers = {f"/v2/first-and-second/blobs/{layer}" for layer in fresh.layers}
    biggest, *_, smallest = fresh.files

    begin = len(cluster.registry.requests())
    pods.run_and_store(image, "n1")
    assert digest_in(cluster, "first", f"/image/{biggest}") == fresh.files[biggest]
    assert layers <= {path for _, path, _ in cluster.registry.requests()[begin:]}

    begin = len(cluster.registry.requests())
    pods.run(pod("second", "n2", inline(image)))
    assert digest_in(cluster, "second", f"/image/{smallest}") == fresh.files[smallest]
    on_disk = product.disk_bytes("n2", fresh.layers)
    assert 0 < on_disk < fresh.payload_bytes / 10
    some = [f"/image/{path}" for path in list(fresh.files)[::25]]
    told = [line.split("  ", 1) for line in cluster.exec("second", "sha256sum", *some).splitlines()]
    assert {path: digest for digest, path in told} == {
        path: fresh.files[path.removeprefix("/image/")] for path in some
    }
    pods.delete("second")
    asked = {path for _, path, _ in cluster.registry.requests()[begin:]}
    assert any(path.startswith("/v2/first-and-second/manifests/") for path in asked)
    assert not layers & asked
    print(f"n2 held {on_disk} of {fresh.payload_bytes} payload bytes after one small file")


def test_the_kubelet_brings_a_secret_that_changes_and_the_volume_stays_whatever_it_is(
    image: str, sample: Sample, cluster: Cluster, pods: Pods
) -> None:
    path, digest = next(iter(sample.files.items()))
    pods.make(secret("own", username="user", password="hush"))
    volume = inline(image)
    volume["csi"]["nodePublishSecretRef"] = {"name": "own"}
    pods.run(pod("keeps", "n1", volume))

    def phase() -> str:
        of = "jsonpath={.items[?(@.spec.pod=='keeps')].status.phase}"
        return cluster.kubectl("get", "clipmounts", "-o", of)

    wait_for(lambda: phase() == "Mounted", within_s=60)
    pods.make(secret("own", word="hush"))
    wait_for(lambda: phase() == "Degraded", within_s=240)
    told = cluster.kubectl("describe", "pod", "keeps").splitlines()
    (line,) = [line.strip() for line in told if "ClipDegraded" in line]
    print(line)
    assert "the volume's secret needs .dockerconfigjson, or username and password" in line
    assert not [line for line in told if "FailedMount" in line]
    assert digest_in(cluster, "keeps", f"/image/{path}") == digest
    pods.make(secret("own", username="user", password="hush"))
    wait_for(lambda: phase() == "Mounted", within_s=240)
    assert digest_in(cluster, "keeps", f"/image/{path}") == digest


def test_a_static_persistent_volume_is_shown_on_both_nodes(
    image: str, sample: Sample, cluster: Cluster, pods: Pods
) -> None:
    pods.make(*persistent("sample", image))
    pods.run(*(pod(f"claims-{node}", node, claimed("sample")) for node in NODES))
    path, digest = next(iter(sample.files.items()))
    for node in NODES:
        assert digest_in(cluster, f"claims-{node}", f"/image/{path}") == digest


def test_a_folder_of_an_image_is_mounted_by_sub_path(
    image: str, sample: Sample, cluster: Cluster, pods: Pods
) -> None:
    path = next(path for path in sample.files if path.startswith("usr/lib/python3.11/"))
    pods.run(pod("part", "n1", inline(image), sub_path="usr/lib/python3.11"))
    inner = path.removeprefix("usr/lib/python3.11/")
    assert digest_in(cluster, "part", f"/image/{inner}") == sample.files[path]


def test_pods_and_containers_that_share_an_image_share_its_mount(
    image: str, sample: Sample, product: Product, cluster: Cluster, pods: Pods
) -> None:
    pods.run(
        pod("pair", "n1", inline(image), containers=("left", "right")),
        pod("alone", "n1", inline(image)),
    )
    path, digest = next(iter(sample.files.items()))
    for name, container in (("pair", "left"), ("pair", "right"), ("alone", "main")):
        assert digest_in(cluster, name, f"/image/{path}", container) == digest
    assert len(product.stats("n1")["mounts"]) == 1
    pods.delete("pair")
    assert digest_in(cluster, "alone", f"/image/{path}") == digest


@pytest.mark.parametrize("command", ["echo x >/image/new", "busybox rm /image/bin/bash"])
def test_a_volume_cannot_be_written(command: str, image: str, cluster: Cluster, pods: Pods) -> None:
    pods.run(pod("writer", "n1", inline(image)))
    with pytest.raises(AssertionError, match="Read-only file system"):
        cluster.exec("writer", "sh", "-c", command)


@pytest.mark.parametrize("fresh", ["plain"], indirect=True)
def test_a_pod_reads_on_when_the_drivers_process_is_killed(
    fresh: Sample, product: Product, cluster: Cluster, pods: Pods
) -> None:
    image = cluster.push(fresh.layout, "killed:1")
    pods.run_and_store(image, "n1")
    pods.run(pod("reader", "n2", inline(image)))
    driver = product.driver("n2")
    before = product.stats("n2")["content_cache"]["bytes"]
    cluster.on("n2", "kill", "-9", str(driver))
    path, digest = next(iter(fresh.files.items()))
    assert digest_in(cluster, "reader", f"/image/{path}") == digest
    assert product.stats("n2")["content_cache"]["bytes"] > before, "nothing was read from afar"
    pods.run(pod("later", "n2", inline(image)))
    assert product.driver("n2") != driver
    assert product.restarts("n2") == 0
    assert len(product.servers("n2")) == 1
    (said,) = cluster.kubectl(
        "get", "clipmounts", "-o", "jsonpath={.items[?(@.spec.pod=='reader')].status.phase}"
    ).split()
    assert said == "Mounted"
    assert not [one for one in cluster.events("reader") if "ClipDegraded" in one]
