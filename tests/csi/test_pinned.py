"""A volume shows the image that it showed first, until it is unpublished: whatever became of its
mount meanwhile, and whatever its tag is by now."""

import shutil
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.driver import Driver, nothing_left, umount
from tests.support.machine import needs_fuse
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = needs_fuse


@pytest.fixture
def moved(start: Start, scripted: ScriptedRegistry) -> str:
    """`latest` was published for "pod", is another image by now, and nothing is mounted."""
    name = f"{scripted.address}/app:latest"
    driver = start()
    umount(driver.publish("pod", name))
    digest, _ = scripted.add_image("new")
    scripted.manifests["latest"] = scripted.manifests[digest]
    driver.process.terminate()
    driver.process.wait(20)
    return name


def last_published(driver: Driver) -> str:
    published = [line for line in driver.lines() if line["event"] == "volume published"]
    return str(published[-1]["digest"])


def test_a_volume_whose_mount_has_gone_shows_the_same_image_again(
    moved: str, start: Start, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    driver = start()
    for _ in range(2):
        umount(driver.publish("pod", moved))
        assert last_published(driver) == scripted.digest
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")
    driver.publish("pod", moved)
    assert last_published(driver) != scripted.digest, "a new volume shows what is there now"


def test_another_volume_at_its_place_is_not_it(
    moved: str, start: Start, scripted: ScriptedRegistry
) -> None:
    driver = start()
    driver.publish("pod", moved, attributes={"front": "fuse"})
    assert last_published(driver) != scripted.digest


def test_it_is_forgotten_once_the_kubelet_has_no_folder_for_it_any_more(
    moved: str, start: Start, tmp_path: Path
) -> None:
    left = tmp_path / "root/run/left"
    driver = start()
    assert len(list(left.iterdir())) == 1
    driver.process.terminate()
    driver.process.wait(20)
    shutil.rmtree(tmp_path / "home/kubelet/pods/pod")
    start()
    assert list(left.iterdir()) == []
