"""Lines of the driver and of the servers that it starts: one JSON object each, with the volume's
names on all that are about one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.csi.conftest import Lazy, Start
from tests.support.driver import Driver, failure, umount
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = needs_fuse


def lines(driver: Driver) -> list[dict[str, Any]]:
    """Every line, none left out: one that is no JSON object fails here."""
    found = [json.loads(line) for line in driver.log.read_text().splitlines()]
    assert all(isinstance(line, dict) and {"event", "level", "timestamp"} <= set(line)
               for line in found)  # fmt: skip
    return found


def told(driver: Driver, event: str) -> dict[str, Any]:
    (found,) = [line for line in lines(driver) if line["event"] == event]
    return found


def names(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(line.get(name, "(none)") for name in ("volume", "pod", "image"))


def test_a_volume_that_comes_and_goes_is_named_on_its_lines(start: Start, image: str) -> None:
    driver = start()
    driver.publish("pod", image)
    driver.publish("other", image)
    driver.unpublish("pod")
    published = [line for line in lines(driver) if line["event"] == "volume published"]
    assert [names(line) for line in published] == [
        ("csi-pod", "default/pod", image), ("csi-other", "default/other", image)
    ]  # fmt: skip
    assert names(told(driver, "volume unpublished")) == ("csi-pod", "default/pod", image)
    for line in lines(driver):
        if line["event"] in ("driver is ready", "registered with the kubelet"):
            assert names(line) == ("(none)",) * 3, "it is about no volume"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param({"image": "REG/none:1"}, "NOT_FOUND", id="no such image"),
        pytest.param({"image": "127.0.0.1:1/x:1"}, "UNAVAILABLE", id="no such registry"),
        pytest.param({"image": "UPPER"}, "INVALID_ARGUMENT", id="no reference"),
        pytest.param({"image": "REG/driver:1", "front": "no"}, "INVALID_ARGUMENT", id="attribute"),
    ],
)
def test_a_publish_that_fails_names_the_volume_on_its_line(
    wrong: dict[str, str], code: str, driver: Driver, image: str, registry: RegistryServer
) -> None:
    attributes = {key: value.replace("REG", registry.address) for key, value in wrong.items()}
    name = attributes.pop("image")
    assert failure(lambda: driver.publish("pod", name, attributes=attributes))[0] == code
    line = told(driver, "call failed")
    assert (line["method"], line["code"]) == ("NodePublishVolume", code)
    assert names(line) == ("csi-pod", "default/pod", name)


def test_a_call_does_not_leave_its_names_to_the_next_on_its_thread(
    driver: Driver, image: str
) -> None:
    driver.publish("pod", image)
    for _ in range(20):
        code, _ = failure(lambda: driver.usage("unknown"))
        assert code == "NOT_FOUND"
    failed = [line for line in lines(driver) if line["event"] == "call failed"]
    assert {names(line) for line in failed} == {("csi-unknown", "", "")}


def test_lines_of_a_server_name_its_image_its_place_and_who_asked_first(
    lazy: Lazy, image: str, tmp_path: Path
) -> None:
    lazy.driver.publish("other", image)
    assert (lazy.target / "hello").read_text() == "world\n"
    for name in ("pod", "other"):
        lazy.driver.unpublish(name)
    wait_for(lambda: any(line["event"] == "served" for line in lines(lazy.driver)))
    of_servers = [line for line in lines(lazy.driver) if "mountpoint" in line]
    events = {line["event"] for line in of_servers}
    assert {
        "serving",
        "Read called",
        "CONTENT CACHE HIT - range read from remote",
        "served",
    } <= events
    for line in of_servers:
        assert (line["volume"], line["pod"]) == ("csi-pod", "default/pod")
        assert line["image"].startswith(f"{image}@sha256:")
        assert line["mountpoint"].startswith(f"{tmp_path}/root/run/images/sha256_")


def test_lines_of_a_proof_that_the_registry_has_the_layers_name_the_volume(
    driver: Driver, image: str, scripted: ScriptedRegistry
) -> None:
    driver.publish("owner", image)
    name = f"{scripted.address}/app:1"
    driver.publish("pod", name)
    of_layers = [line for line in lines(driver) if "cache_key" in line]
    proof = [line for line in of_layers if line["image"].startswith(name)]
    assert "Layer decompressed and cached to disk" in {line["event"] for line in of_layers}
    assert proof
    assert {(line["volume"], line["pod"]) for line in proof} == {("csi-pod", "default/pod")}


def test_the_mounts_own_failure_is_a_line_with_the_volumes_names(
    driver: Driver, scripted: ScriptedRegistry
) -> None:
    scripted.spoil = True
    name = f"{scripted.address}/app:1"
    assert failure(lambda: driver.publish("pod", name))[0] == "DATA_LOSS"
    line = told(driver, "failed")
    assert (line["program"], line["code"]) == ("clipfs", "corrupt_image")
    assert (line["volume"], line["pod"]) == ("csi-pod", "default/pod")
    assert line["image"].startswith(f"{name}@sha256:")


def test_volumes_that_are_adopted_or_found_gone_are_named(
    start: Start, image: str, tmp_path: Path
) -> None:
    first = start()
    first.publish("kept", image)
    target = first.publish("lost", image)
    first.process.kill()
    first.process.wait(20)
    umount(target)
    second = start()
    assert names(told(second, "volume adopted")) == ("csi-kept", "default/kept", image)
    assert names(told(second, "volume is gone")) == ("csi-lost", "default/lost", image)


def test_odd_names_of_volumes_and_pods_are_one_line_and_no_words_of_the_command(
    driver: Driver, image: str
) -> None:
    odd = 'x"\n --front\0 ' + "y" * 1000
    request = driver.publish_request("pod", image, attributes={
        "csi.storage.k8s.io/pod.name": odd})  # fmt: skip
    request.volume_id = odd
    driver.target("pod").parent.mkdir(parents=True)
    driver.call("Node/NodePublishVolume", request)
    of_servers = [line for line in lines(driver) if "mountpoint" in line]
    assert {line["volume"] for line in of_servers} == {odd[:300]}
    assert {line["pod"] for line in of_servers} == {f"default/{odd}"[:300]}
