"""The driver and the control plane of a real cluster: one that is away, and the startup taint."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.installation import TAINT
from tests.e2e.kubernetes import DRIVER, Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.registries import SLOW, Registries
from tests.e2e.sample import random_image
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_mounts_and_reads_go_on_while_the_api_server_is_away_and_are_told_later(
    registries: Registries, cluster: Cluster, pods: Pods, tmp_path: Path
) -> None:
    before, new = random_image(tmp_path / "before", layers=2), random_image(tmp_path / "new")
    pods.run_and_store(cluster.push(before.layout, "before:1"), "n1")
    pods.run(pod("reader", "n2", inline(cluster.push(before.layout, "before:1"))))
    slow = cluster.push(new.layout, "new:1").replace(cluster.registry.address, SLOW)
    registries.slow.bytes_per_s = 20_000
    pods.make(pod("starts", "n1", inline(slow)))
    cluster.wait_event("Normal ClipIndexing .*", "starts")

    with cluster.without_api_server():
        registries.slow.bytes_per_s = None
        found = wait_for(lambda: cluster.read_by_runtime("n1", "starts", "/image/0/data"))
        assert found == new.data[0]
        for layer, digest in enumerate(before.data):
            assert cluster.read_by_runtime("n2", "reader", f"/image/{layer}/data") == digest

    cluster.wait_ready("starts")
    cluster.wait_event("Normal ClipMounted .*", "starts", within_s=120)


def test_the_startup_taint_goes_once_the_kubelet_has_listed_the_driver(
    image: str, product: Product, cluster: Cluster, pods: Pods
) -> None:
    cluster.kubectl("taint", "node", "n2", f"{TAINT}=:NoSchedule")
    pods.make(pod("waits", "n2", inline(image)))
    cluster.wait_event(".* untolerated taint.*", "waits", of="default-scheduler")
    with cluster.watched("node/n2") as node, cluster.watched("csinode/n2") as csi_node:
        product.replace_driver("n2")
        cluster.wait_ready("waits")
        listings = [(lists_driver(one), revision(one)) for one in csi_node()]
        free = next(revision(one) for one in node() if not has_taint(one))
    unlisted = next(at for is_listed, at in listings if not is_listed)
    listed = next(at for is_listed, at in listings if is_listed and at > unlisted)
    assert listed < free


def lists_driver(csi_node: dict[str, Any]) -> bool:
    return DRIVER in [one["name"] for one in csi_node["spec"]["drivers"] or ()]


def has_taint(node: dict[str, Any]) -> bool:
    return TAINT in [one["key"] for one in node["spec"].get("taints") or ()]


def revision(found: dict[str, Any]) -> int:
    """Of etcd, which both kinds are in: they are in one order."""
    return int(found["metadata"]["resourceVersion"])
