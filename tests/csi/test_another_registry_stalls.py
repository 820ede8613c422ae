"""An image under two registries' names: the one that stalls holds up nobody who asks the other."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.csi.conftest import Start
from tests.support.driver import Driver, failure, nothing_left, servers
from tests.support.machine import needs_fuse
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.throttle import throttle

pytestmark = needs_fuse

CRAWL = 40_000.0
"""Bytes a second: the image's 3 MiB would take over a minute."""

BEFORE = (
    "waiting for its turn",
    "indexing 1 layer",
    "asking its registry for proof of 1 layer",
)

SHORT_S = 6
"""A call's time: it is answered after a second."""


def stalled(driver: Driver, scripted: ScriptedRegistry) -> Any:
    """A publish that is under way, for pod `slow`: its registry has stopped amid the layer."""
    scripted.close_gate()
    call = driver.begin_publish("slow", f"{scripted.address}/app:1")
    assert scripted.at_gate.wait(60)
    return call


def ends(call: Any, scripted: ScriptedRegistry) -> None:
    """It was stalled all the time, and ends well once its registry goes on."""
    assert not call.done()
    scripted.open_gate()
    call.result()


def shows(target: Path) -> bool:
    return (target / "hello").read_text() == "world\n"


def test_a_volume_that_waits_for_its_registrys_proof_is_told_of_that_and_how_far_it_is(
    start: Start, image: str, scripted: ScriptedRegistry, layout_data: bytes
) -> None:
    """The image is mounted already, for a pod that names another registry."""
    with throttle(scripted.address) as pace:
        pace.bytes_per_s = CRAWL
        driver = start("--plain-http", pace.address)
        driver.publish("first", image)
        name = f"{pace.address}/app:1"
        figures = re.compile(
            f"{name}: downloading layer 1 of 1 as proof that its registry has it: "
            r"(\d+)%, .* of 3\.\d MB, (.*/s, about .* left|nothing comes just now)"
        )
        seen: list[int] = []
        while len(seen) < 3 or seen[-1] == 0:
            code, said = failure(lambda: driver.publish("slow", name, within_s=SHORT_S))
            match = figures.fullmatch(said)
            assert code == "ABORTED"
            assert match or said.removeprefix(f"{name}: ") in BEFORE, said
            seen.append(int(match[1]) if match else 0)
        assert seen == sorted(seen)
        pace.bytes_per_s = None
        assert (driver.publish("slow", name) / "data").read_bytes() == layout_data
    assert len(scripted.layer_reads()) == 1


def test_pods_of_an_image_that_is_mounted_do_not_wait_for_another_registrys_proof(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver.publish("first", image)
    call = stalled(driver, scripted)
    assert shows(driver.publish("second", image, within_s=30))
    ends(call, scripted)
    assert shows(driver.target("slow"))
    assert len(scripted.layer_reads()) == 1
    assert len(servers(tmp_path / "root")) == 2
    for pod in ("first", "second", "slow"):
        driver.unpublish(pod)
    nothing_left(driver, tmp_path / "root", "first", "second", "slow")


@pytest.mark.parametrize("front", ["fuse", "erofs"])
def test_an_image_that_nobody_has_yet_comes_from_the_registry_that_delivers(
    front: str, start: Start, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    """Each registry has to deliver the layer itself, so that there is nothing to wait for."""
    driver = start("--front", front)
    call = stalled(driver, scripted)
    assert shows(driver.publish("quick", image, within_s=30))
    assert shows(driver.publish("quick-2", image))
    ends(call, scripted)
    assert shows(driver.target("slow"))
    assert len(scripted.layer_reads()) == 1
    pods = ("quick", "quick-2", "slow")
    driver.unpublish("quick")
    assert shows(driver.target("quick-2"))
    assert shows(driver.target("slow"))
    for pod in pods[1:]:
        driver.unpublish(pod)
    nothing_left(driver, tmp_path / "root", *pods)
