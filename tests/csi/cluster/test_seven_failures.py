"""`kubectl describe pod` of a pod that fails: the reason and the way out, in one line each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.apiserver import ApiServer, needs_apiserver
from tests.support.cluster_pods import described, make_pod
from tests.support.driver import Driver, cleaned_up, failure, run_driver
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.small_disk import needs_loop, small_disk
from tests.support.wait import wait_for

pytestmark = [needs_apiserver, needs_fuse]

Change = Callable[[ScriptedRegistry], None]


def refuse(status: int) -> Change:
    return lambda registry: registry.refuse.update(manifests=status)


def spoil(registry: ScriptedRegistry) -> None:
    registry.spoil = True


def foreign(registry: ScriptedRegistry) -> None:
    layer_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    layer = {"mediaType": layer_type, "digest": "sha256:" + "1" * 64, "size": 9}
    config = registry.add_blob(b"{}", "application/vnd.oci.image.config.v1+json")
    document = {"schemaVersion": 2, "config": config, "layers": [layer]}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    registry.manifests["1"] = (media_type, json.dumps(document).encode())


def told(
    server: ApiServer,
    driver: Driver,
    pod: str,
    image: str,
    secrets: dict[str, str] | None = None,
) -> str:
    """The one line that describe shows of a volume that has failed twice, less its age."""
    whose = make_pod(server, pod, "failures")
    keys = {"pod.uid": whose.uid, "pod.namespace": whose.namespace, "pod.name": whose.name}
    attributes = {f"csi.storage.k8s.io/{key}": value for key, value in keys.items()}
    for _ in range(2):
        failure(lambda: driver.publish(pod, image, secrets, attributes=attributes))
    wait_for(lambda: any("ClipFailed" in line for line in described(server, whose)))
    (line,) = [line for line in described(server, whose) if "ClipFailed" in line]
    kind, _, message = line.partition(" csi.clipfs.dev ")
    assert kind.startswith("Warning ClipFailed ")
    return message


@pytest.mark.parametrize(
    ("pod", "change", "reason", "way_out"),
    [
        ("wrong-tag", refuse(404), "no such image", "check its name and its tag"),
        ("no-credentials", refuse(401), "wants credentials", "nodePublishSecretRef"),
        ("denied", refuse(403), "the registry refuses", "let that account pull"),
        ("corrupt-layer", spoil, "Incorrect checksum", "push the image again"),
        ("media-type", foreign, "a layer is foreign", "convert the image"),
    ],
    ids=["wrong-tag", "no-credentials", "denied", "corrupt-layer", "media-type"],
)
def test_what_is_wrong_at_the_registry(
    api_server: ApiServer,
    start: Start,
    driver_config: Path,
    scripted: ScriptedRegistry,
    pod: str,
    change: Change,
    reason: str,
    way_out: str,
) -> None:
    change(scripted)
    driver = start("--kubeconfig", str(driver_config))
    secrets = {"username": "me", "password": "mine"} if pod == "denied" else None
    message = told(api_server, driver, pod, f"{scripted.address}/app:1", secrets)
    assert message.startswith(f"{scripted.address}/app:1: ")
    assert reason in message
    assert way_out in message


def test_a_registry_that_is_down(api_server: ApiServer, start: Start, driver_config: Path) -> None:
    driver = start("--kubeconfig", str(driver_config))
    message = told(api_server, driver, "down", "127.0.0.1:1/app:1")
    assert "no answer from 127.0.0.1:1" in message
    assert "is it up, and can this node reach it?" in message


@needs_loop
def test_a_disk_that_is_full(
    api_server: ApiServer,
    image: str,
    registry: RegistryServer,
    driver_config: Path,
    tmp_path: Path,
) -> None:
    options = ["--plain-http", registry.address, "--kubeconfig", str(driver_config)]
    with (
        small_disk(tmp_path / "small", mebibytes=64) as disk,
        cleaned_up(tmp_path),
        run_driver(tmp_path / "home", options, root=disk.folder / "root") as driver,
    ):
        disk.fill()
        message = told(api_server, driver, "full", image)
    assert "No space left on device" in message
    assert "free space on the disk of --root" in message
