"""Fixtures of the cluster's tests: one cluster, one installed product, real images, pods."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.installation import SUITE, Installation, installation
from tests.e2e.kubernetes import NODES, Cluster, running_cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.registries import Registries, running_registries
from tests.e2e.sample import Sample, build_sample
from tests.support.wait import wait_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def installed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(cluster, tmp_path_factory.mktemp("product")) as found:
        yield found


@pytest.fixture
def product(installed: Installation) -> Product:
    return installed.need(SUITE)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return build_sample(tmp_path_factory.mktemp("sample"), codec="zstd")


@pytest.fixture(scope="session")
def image(sample: Sample, cluster: Cluster) -> str:
    """The sample in the cluster's registry, for tests that do not ask what the nodes have."""
    return cluster.push(sample.layout, "sample:zstd")


@pytest.fixture
def fresh(tmp_path: Path, request: pytest.FixtureRequest) -> Sample:
    """The sample in layers that no node has, and no other test uses."""
    return build_sample(tmp_path, codec=request.param, mark=secrets.token_hex())


@pytest.fixture(scope="session")
def registries(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    with running_registries(tmp_path_factory.mktemp("registries")) as found:
        yield found


@dataclass(slots=True)
class Pods:
    """The objects of one test; all go at its end, and nothing of theirs may stay."""

    product: Product

    def run(self, *pods: dict[str, Any]) -> None:
        """Return when all are Ready."""
        self.product.cluster.apply(*pods)
        for one in pods:
            where = one["metadata"]
            self.product.cluster.wait_ready(where["name"], namespace=where["namespace"])

    def run_and_store(self, image: str, node: str) -> None:
        """A pod `first` of image is Ready, and the content cache has all of its layers."""
        self.run(pod("first", node, inline(image)))
        wait_for(lambda: not self.product.stats(node)["storing"], within_s=60)

    def make(self, *objects: dict[str, Any]) -> None:
        self.product.cluster.apply(*objects)

    def delete(self, name: str, *, namespace: str = "default") -> None:
        """Return when the pod is gone."""
        self.product.cluster.kubectl("delete", "pod", "-n", namespace, name, "--timeout=60s")

    def delete_all(self) -> None:
        """Return when the pods are gone and no trace of their volumes is left on any node."""
        for kind in ("deployment", "pod", "pvc", "pv", "secret"):
            words = ("-A", "-l", "app=clip-test", "--cascade=foreground", "--timeout=120s")
            self.product.cluster.kubectl("delete", kind, *words)
        left: list[str] = []

        def gone() -> bool:
            left[:] = [f"{node}: {one}" for node in NODES for one in self.product.leftovers(node)]
            return not left

        try:
            wait_for(gone, within_s=30)
        except TimeoutError:
            raise AssertionError("\n".join(["volumes left behind:", *left])) from None


@pytest.fixture
def pods(product: Product) -> Iterator[Pods]:
    made = Pods(product)
    try:
        yield made
    finally:
        made.delete_all()
