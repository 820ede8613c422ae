"""The driver as a process, a registry and an API server, all real: what people see of a volume."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from csi.health import SERVER_DIED
from csi.pod import Pod
from tests.csi.conftest import Start
from tests.support.apiserver import ApiServer, manifest, needs_apiserver
from tests.support.cluster_pods import described, make_pod
from tests.support.driver import Driver, failure, servers
from tests.support.machine import CLIP_CSI, needs_fuse
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = [needs_apiserver, needs_fuse]


@pytest.fixture
def driver(start: Start, driver_config: Path) -> Driver:
    return start("--kubeconfig", str(driver_config))


def uid(pod: Pod) -> dict[str, str]:
    keys = {"pod.uid": pod.uid, "pod.namespace": pod.namespace, "pod.name": pod.name}
    return {f"csi.storage.k8s.io/{key}": value for key, value in keys.items()}


def mounts(server: ApiServer, pod: Pod) -> list[dict[str, Any]]:
    found = server.objects("clipmounts", pod.namespace)
    return [one for one in found if one["spec"]["pod"] == pod.name and "status" in one]


def test_a_volume_that_is_mounted_is_told_and_goes(
    api_server: ApiServer, driver: Driver, image: str, start: Start, driver_config: Path
) -> None:
    pod = make_pod(api_server, "web", "reports")
    driver.publish("web", image, attributes=uid(pod))
    (found,) = wait_for(lambda: mounts(api_server, pod))
    wait_for(lambda: mounts(api_server, pod)[0]["status"]["phase"] == "Mounted")
    assert found["spec"]["node"] == "node-a"
    wait_for(lambda: len(described(api_server, pod)) == 2)
    lines = described(api_server, pod)
    assert [line.split()[1] for line in lines] == ["ClipResolved", "ClipMounted"]
    assert "mounted with fuse in" in lines[1]
    driver.unpublish("web")
    wait_for(lambda: not mounts(api_server, pod))


def test_what_an_earlier_driver_told_goes_with_the_volume(
    api_server: ApiServer, driver: Driver, image: str, start: Start, driver_config: Path
) -> None:
    pod = make_pod(api_server, "kept", "reports")
    driver.publish("kept", image, attributes=uid(pod))
    wait_for(lambda: mounts(api_server, pod))
    driver.process.kill()
    driver.process.wait()
    start("--kubeconfig", str(driver_config)).unpublish("kept")
    wait_for(lambda: not mounts(api_server, pod))


def test_a_volume_whose_server_has_died_says_so(
    api_server: ApiServer, driver: Driver, image: str, tmp_path: Path
) -> None:
    pod = make_pod(api_server, "orphan", "reports")
    driver.publish("orphan", image, attributes={**uid(pod), "front": "fuse"})
    (server,) = servers(tmp_path / "root")
    os.kill(server, signal.SIGKILL)
    found = wait_for(lambda: [one for one in mounts(api_server, pod)
                              if one["status"]["phase"] == "Degraded"])  # fmt: skip # one thought
    degraded = next(one for one in found[0]["status"]["conditions"] if one["type"] == "Degraded")
    assert degraded["message"].endswith(SERVER_DIED)
    wait_for(lambda: any("ClipDegraded" in line for line in described(api_server, pod)))


def test_a_failing_pod_tells_why_and_what_to_do(
    api_server: ApiServer, driver: Driver, image: str
) -> None:
    pod = make_pod(api_server, "broken", "reports")
    missing = image.rpartition(":")[0] + ":absent"
    for _ in range(2):
        code, said = failure(lambda: driver.publish("broken", missing, attributes=uid(pod)))
        assert code == "NOT_FOUND"
    (line,) = wait_for(lambda: described(api_server, pod))
    assert said in line
    (found,) = wait_for(lambda: mounts(api_server, pod))
    assert found["status"]["phase"] == "Failed"
    assert found["status"]["lastError"]["message"] == said


@pytest.mark.parametrize(
    ("reference", "attributes", "secrets", "way_out"),
    [
        ("IMAGE", {"nosuch": "x"}, {}, "known are: image, pullPolicy, platform, front"),
        ("UPPER", {}, {}, "write it as [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]"),
        ("IMAGE", {}, {"tokn": "hush"}, "needs .dockerconfigjson, or username and password"),
    ],
    ids=["attribute", "reference", "secret"],
)
def test_what_no_volume_can_be_made_of_is_told_to_its_pod(
    reference: str,
    attributes: dict[str, str],
    secrets: dict[str, str],
    way_out: str,
    request: pytest.FixtureRequest,
    api_server: ApiServer,
    driver: Driver,
    image: str,
) -> None:
    pod = make_pod(api_server, f"invalid-{request.node.callspec.id}", "reports")
    named = reference.replace("IMAGE", image)
    code, said = failure(
        lambda: driver.publish(pod.name, named, secrets, attributes={**uid(pod), **attributes})
    )
    assert code == "INVALID_ARGUMENT"
    assert way_out in said
    (line,) = wait_for(lambda: described(api_server, pod))
    assert line.startswith("Warning ClipFailed ")
    assert said in line
    (found,) = wait_for(lambda: mounts(api_server, pod))
    assert (found["spec"]["image"], found["status"]["phase"]) == (named, "Failed")
    assert found["status"]["lastError"]["message"] == said
    assert "hush" not in str(found)


def test_a_conflict_is_told_and_the_volume_that_is_there_stays_mounted(
    api_server: ApiServer, driver: Driver, image: str
) -> None:
    pod = make_pod(api_server, "twice", "reports")
    driver.publish("twice", image, attributes=uid(pod))
    code, said = failure(
        lambda: driver.publish("twice", image, attributes={**uid(pod), "front": "fuse"})
    )
    assert code == "ALREADY_EXISTS"
    wait_for(lambda: any(said in line for line in described(api_server, pod)))
    wait_for(lambda: [one["status"]["phase"] for one in mounts(api_server, pod)] == ["Mounted"])


def test_the_startup_taint_goes_once_the_kubelet_lists_the_driver(
    api_server: ApiServer, start: Start, driver_config: Path
) -> None:
    role = manifest("examples/startup-taint.yaml")
    api_server.grant(role, "patch", "nodes")
    taint = {"key": "clipfs.dev/not-ready", "effect": "NoSchedule"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
    api_server.apply({**node, "spec": {"taints": [taint]}})
    start("--kubeconfig", str(driver_config), "--startup-taint", taint["key"])
    assert taint["key"] in api_server.kubectl("get", "node", "node-a", "-o", "yaml")
    listed = {"name": "csi.clipfs.dev", "nodeID": "node-a", "topologyKeys": None}
    api_server.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "node-a"},
            "spec": {"drivers": [listed]},
        }
    )
    words = ("get", "node", "node-a", "-o", "jsonpath={.spec.taints[*].key}")
    wait_for(lambda: taint["key"] not in api_server.kubectl(*words), 30)
    api_server.kubectl("delete", "node/node-a", "csinode/node-a")
    api_server.withdraw(role, "patch", "nodes")


def test_a_kubeconfig_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    command = [
        CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/csi.sock", "--node-id", "n",
        "--kubelet-root", str(tmp_path), "--root", str(tmp_path / "root"),
        "--kubeconfig", str(tmp_path / "absent"),
    ]  # fmt: skip  # as typed by hand
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"--kubeconfig {tmp_path}/absent cannot be used" in done.stderr


def test_a_mounted_volume_whose_access_is_refused_by_now_tells_so_until_it_is_given_again(
    api_server: ApiServer, driver: Driver, scripted: ScriptedRegistry
) -> None:
    pod = make_pod(api_server, "refused", "reports")
    scripted.wants = "user:right"
    image = f"{scripted.address}/own:1"

    def publish(password: str) -> None:
        driver.publish(
            "refused", image, {"username": "user", "password": password}, attributes=uid(pod)
        )

    def phase() -> str:
        found = mounts(api_server, pod)
        return str(found[0]["status"]["phase"]) if found else ""

    publish("right")
    wait_for(lambda: phase() == "Mounted")
    publish("wrong")
    wait_for(lambda: phase() == "Degraded")
    (line,) = wait_for(lambda: [one for one in described(api_server, pod) if "Degraded" in one])
    assert "access is refused by now, reads of what this node lacks may fail: " in line
    assert "the credentials came from nodePublishSecretRef: correct them there" in line
    publish("right")
    wait_for(lambda: phase() == "Mounted")
    driver.unpublish("refused")
