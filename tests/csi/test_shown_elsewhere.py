"""An image that is mounted already, for a pod that names it at another registry."""

from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.driver import Driver, failure, nothing_left, servers
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.two_nodes import options_of_server

pytestmark = needs_fuse


@pytest.mark.parametrize("front", ["fuse", "erofs"])
def test_a_registry_that_knows_a_digest_alone_opens_no_volume_of_it(
    front: str, start: Start, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver = start("--front", front)
    driver.publish("owner", image)
    for answer, expected in (("refuses", "NOT_FOUND"), ("lies", "DATA_LOSS")):
        scripted.refuse = {} if answer == "lies" else {"blobs": 404}
        scripted.spoil = answer == "lies"
        for name in (f"{scripted.address}/app:1", f"{scripted.address}/app@{scripted.digest}"):
            code, _ = failure(lambda name=name: driver.publish("thief", name))  # type: ignore[misc] # a default is the loop's
            assert code == expected
            assert not driver.target("thief").exists()
    assert (driver.target("owner") / "hello").read_text() == "world\n"
    driver.unpublish("owner")
    nothing_left(driver, tmp_path / "root", "owner", "thief")


def test_one_that_delivers_the_layers_once_has_a_server_of_its_own_from_then_on(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver.publish("owner", image)
    name = f"{scripted.address}/app:1"
    for pod in ("first", "second"):
        assert (driver.publish(pod, name) / "hello").read_text() == "world\n"
        assert len(scripted.layer_reads()) == 1
    assert len(servers(tmp_path / "root")) == 2
    for pod in ("owner", "first", "second"):
        driver.unpublish(pod)
    nothing_left(driver, tmp_path / "root", "owner", "first", "second")


def test_what_the_kernel_serves_alone_is_one_mount_whoever_names_it(
    start: Start, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver = start("--front", "erofs")
    driver.publish("owner", image)
    name = f"{scripted.address}/app:1"
    assert (driver.publish("first", name) / "hello").read_text() == "world\n"
    assert len(scripted.layer_reads()) == 1
    assert len(list((tmp_path / "root/run/images").iterdir())) == 1


def test_a_registry_that_takes_the_image_away_fails_no_read_of_who_names_another(
    start: Start,
    image: str,
    scripted: ScriptedRegistry,
    registry: RegistryServer,
    layout_data: bytes,
    tmp_path: Path,
) -> None:
    """Its pod came first, and neither disk nor content cache has the bytes."""
    with run_content_server(tmp_path / "cache") as cache:
        shared = options_of_server(cache, tmp_path)
        Node(tmp_path / "A", [*shared, "--plain-http", registry.address]).json("index", image)
        for page in cache.objects.glob("sha256_*/*"):
            page.unlink()
        driver = start(*shared)
        driver.publish("first", f"{scripted.address}/app:1")
        target = driver.publish("owner", image)
        scripted.refuse["blobs"] = 404
        assert (target / "data").read_bytes() == layout_data


def test_what_was_delivered_once_is_known_to_the_next_driver(
    start: Start, image: str, scripted: ScriptedRegistry
) -> None:
    first = start()
    first.publish("owner", image)
    name = f"{scripted.address}/app:1"
    first.publish("pod", name)
    first.process.terminate()
    first.process.wait(20)
    assert (start().publish("other", name) / "hello").read_text() == "world\n"
    assert len(scripted.layer_reads()) == 1


@pytest.mark.parametrize("named", ["tag", "digest"])
@pytest.mark.parametrize("refuse", [{"layers": 404}, {}], ids=["has-no-layer", "has-them"])
def test_never_says_the_same_whether_others_have_brought_the_layers_or_not(
    driver: Driver, image: str, scripted: ScriptedRegistry, refuse: dict[str, int], named: str
) -> None:
    version = ":1" if named == "tag" else f"@{scripted.digest}"
    name = f"{scripted.address}/app{version}"
    said = "is not on this node, and pullPolicy is Never; say IfNotPresent, or have it published on"
    expected = ("NOT_FOUND", f"{name} {said} this node before")
    scripted.refuse = refuse

    def never() -> None:
        driver.publish("thief", name, attributes={"pullPolicy": "Never"})

    assert failure(never) == expected
    driver.publish("owner", image)
    assert failure(never) == expected, "it is mounted"
    driver.unpublish("owner")
    assert failure(never) == expected, "it is whole on the disk"
    assert scripted.layer_reads() == []
