"""`kubectl describe pod` of a pod that fails: the reason and the way out, in one line each."""

import re
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


GOLDEN = {
    "wrong-tag": "IMAGE: no such image in the registry; check its name and its tag",
    "no-credentials": "IMAGE: the registry wants credentials, or other ones; there may also be no "
    "such repository: no credentials: give the volume a nodePublishSecretRef, or let the driver "
    "read the pod's imagePullSecrets by adding its namespace failures to podPullSecrets.namespaces",
    "denied": "IMAGE: the registry refuses; these credentials may not pull it; the credentials "
    "came from nodePublishSecretRef: let that account pull, or give the volume another",
    "corrupt-layer": "IMAGE: layer LAYER: gzip: Error -6 Incorrect checksum found; push the image "
    "again, or look for a proxy that changes it",
    "media-type": "IMAGE: a layer is foreign ('application/vnd.docker.image.rootfs.foreign.diff."
    "tar.gzip'), its bytes are not in the registry; convert the image, or push it again with a "
    "current tool",
    "down": "IMAGE: no answer from 127.0.0.1:1: Connection refused; is "
    "it up, and can this node reach it?",
    "full": "IMAGE: FILE: No space left on device; free space on the disk of --root",
}
"""What `kubectl describe pod` prints of each, but for names that differ from run to run."""


@pytest.mark.parametrize(
    ("pod", "change"),
    [
        ("wrong-tag", refuse(404)),
        ("no-credentials", refuse(401)),
        ("denied", refuse(403)),
        ("corrupt-layer", spoil),
        ("media-type", ScriptedRegistry.add_foreign_image),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_at_the_registry(
    api_server: ApiServer,
    start: Start,
    driver_config: Path,
    scripted: ScriptedRegistry,
    pod: str,
    change: Change,
) -> None:
    change(scripted)
    driver = start("--kubeconfig", str(driver_config))
    name = f"{scripted.address}/app:1"
    secrets = {"username": "me", "password": "mine"} if pod == "denied" else None
    message = told(api_server, driver, pod, name, secrets).replace(name, "IMAGE")
    assert re.sub(r"sha256:[0-9a-f]{64}", "LAYER", message) == GOLDEN[pod]


def test_a_registry_that_is_down(api_server: ApiServer, start: Start, driver_config: Path) -> None:
    driver = start("--kubeconfig", str(driver_config))
    name = "127.0.0.1:1/app:1"
    assert told(api_server, driver, "down", name).replace(name, "IMAGE") == GOLDEN["down"]


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
        message = told(api_server, driver, "full", image).replace(image, "IMAGE")
    assert re.sub(r"/\S+(?=: No space)", "FILE", message) == GOLDEN["full"]
