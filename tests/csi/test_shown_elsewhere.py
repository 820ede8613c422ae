"""An image that is mounted already, for a pod that names it at another registry."""

from pathlib import Path

from tests.csi.conftest import Start
from tests.support.driver import Driver, failure, nothing_left, servers
from tests.support.machine import needs_fuse
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = needs_fuse


def test_a_registry_that_knows_a_digest_alone_opens_no_volume_of_it(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
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


def test_one_that_delivers_the_layers_once_shares_the_mount_from_then_on(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver.publish("owner", image)
    name = f"{scripted.address}/app:1"
    for pod in ("first", "second"):
        assert (driver.publish(pod, name) / "hello").read_text() == "world\n"
        assert len(scripted.layer_reads()) == 1
    assert len(servers(tmp_path / "root")) == 1


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
