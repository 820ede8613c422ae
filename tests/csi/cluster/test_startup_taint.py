"""The startup taint, on a real API server's node."""

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from csi.cluster.api import Cluster
from csi.cluster.taint import StartupTaint, remove_when_listed, start
from tests.support.apiserver import ApiServer, manifest, needs_apiserver
from tests.support.wait import wait_for

pytestmark = needs_apiserver

KEY, DRIVER = "clipfs.dev/not-ready", "csi.clipfs.dev"
ROLE = manifest("examples/startup-taint.yaml")
OTHER = {"key": "example.com/theirs", "effect": "NoSchedule"}
STAYING = {OTHER["key"], "node.kubernetes.io/not-ready"}  # the second by the API server itself


@pytest.fixture
def node(api_server: ApiServer) -> Iterator[str]:
    """A node with our taint and another's, whose kubelet knows another driver only."""
    taints = [{"key": KEY, "effect": "NoSchedule"}, {"key": KEY, "effect": "NoExecute"}, OTHER]
    metadata = {"name": "n1"}
    api_server.apply(
        {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}},
    )
    know(api_server, "example.com")
    api_server.grant(ROLE, "patch", "nodes")
    yield "n1"
    api_server.withdraw(ROLE, "patch", "nodes")
    api_server.kubectl("delete", "node/n1", "csinode/n1")


def know(server: ApiServer, *drivers: str) -> None:
    """As the kubelet does once a driver has registered itself."""
    listed = [{"name": one, "nodeID": "n1", "topologyKeys": None} for one in drivers]
    server.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "n1"},
            "spec": {"drivers": listed},
        }
    )


def taints(server: ApiServer) -> list[str]:
    said = json.loads(server.kubectl("get", "node", "n1", "-o", "json"))
    return [one["key"] for one in said["spec"].get("taints", [])]


def removed(cluster: Cluster, pause: Callable[[float], bool]) -> None:
    remove_when_listed(cluster, taint=StartupTaint(key=KEY), node="n1", driver=DRIVER, pause=pause)


def test_it_stays_until_the_csinode_lists_the_driver_and_others_stay_for_good(
    api_server: ApiServer, cluster: Cluster, node: str
) -> None:
    seen = []

    def pause(seconds: float) -> bool:
        seen.append(taints(api_server).count(KEY))
        if len(seen) == 2:
            know(api_server, "example.com", DRIVER)
        return False

    removed(cluster, pause)
    assert seen == [2, 2]
    assert set(taints(api_server)) == STAYING


def test_a_thread_does_it_beside_the_driver_and_ends_with_it(
    api_server: ApiServer, cluster: Cluster, node: str
) -> None:
    ended = threading.Event()
    waiting = start(cluster, taint=StartupTaint(key=KEY), node="n1", driver=DRIVER, ended=ended)
    assert waiting.is_alive(), "the driver is not listed"
    ended.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert KEY in taints(api_server)
    know(api_server, DRIVER)
    start(cluster, taint=StartupTaint(key=KEY), node="n1", driver=DRIVER, ended=threading.Event())
    wait_for(lambda: KEY not in taints(api_server))


def test_a_node_without_it_is_not_written_to(
    api_server: ApiServer, cluster: Cluster, node: str
) -> None:
    know(api_server, DRIVER)
    removed(cluster, never)
    before = version(api_server)
    removed(cluster, never)
    assert version(api_server) == before


def never(seconds: float) -> bool:
    raise AssertionError("it waits for something")


def version(server: ApiServer) -> str:
    return server.kubectl("get", "node", "n1", "-o", "jsonpath={.metadata.resourceVersion}")


def test_without_the_role_it_stays_and_is_tried_again_ever_more_seldom(
    api_server: ApiServer, cluster: Cluster, node: str
) -> None:
    know(api_server, DRIVER)
    api_server.withdraw(ROLE, "patch", "nodes")
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 7:
            assert taints(api_server).count(KEY) == 2
            api_server.grant(ROLE, "patch", "nodes")
        return False

    removed(cluster, pause)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    assert set(taints(api_server)) == STAYING
