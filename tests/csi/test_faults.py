"""A publish that fails or meets another one: it says why, and nothing of it stays."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.driver import (
    Driver,
    commands,
    failure,
    mounts_below,
    nothing_left,
    servers,
    umount,
)
from tests.support.machine import needs_fuse
from tests.support.processes import descendants, short_name
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = needs_fuse


# ---- a publish that fails


def test_a_mount_command_that_is_killed_half_way_leaves_nothing_and_may_be_tried_again(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    name = f"{scripted.address}/app:1"
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(lambda: failure(lambda: driver.publish("pod", name)))
        assert scripted.at_gate.wait(60)
        (command,) = commands(driver)
        os.kill(command, signal.SIGKILL)
        code, details = call.result()
    assert code == "INTERNAL"
    assert name in details
    nothing_left(driver, tmp_path / "root", "pod")
    scripted.open_gate()
    assert (driver.publish("pod", name) / "hello").read_text() == "world\n"


def test_a_worker_that_is_killed_half_way_leaves_nothing(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(failure, lambda: driver.publish("pod", f"{scripted.address}/app:1"))
        assert scripted.at_gate.wait(60)
        (command,) = commands(driver)
        (worker,) = [p for p in descendants(command) if short_name(p) == "layer.worker"]
        os.kill(worker, signal.SIGKILL)
        assert call.result()[0] == "INTERNAL"
    nothing_left(driver, tmp_path / "root", "pod")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda target: target.write_text("in the way"), "INTERNAL", id="a-file"),
        pytest.param(lambda target: target.symlink_to(".."), "INVALID_ARGUMENT", id="a-link"),
        pytest.param(lambda target: target.symlink_to("no"), "INVALID_ARGUMENT", id="loose-link"),
    ],
)  # fmt: skip
def test_what_stands_at_the_target_stays_if_no_volume_can_be_there(
    make: object, code: str, driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.target("pod")
    target.parent.mkdir(parents=True)
    make(target)  # type: ignore[operator] # a lambda of the table
    before = os.lstat(target)
    found, details = failure(lambda: driver.publish("pod", image))
    assert (found, str(target) in details) == (code, True), details
    assert os.path.samestat(os.lstat(target), before)
    target.unlink()
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_parent_that_cannot_be_made_fails_the_publish_without_a_trace(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    pods = driver.kubelet_root / "pods"
    pods.mkdir(parents=True)
    (pods / "pod").write_text("a file where a folder should be")
    code, details = failure(
        lambda: driver.call("Node/NodePublishVolume", driver.publish_request("pod", image))
    )
    assert (code, "Not a directory" in details) == ("INTERNAL", True), details
    nothing_left(driver, tmp_path / "root", "pod")
    assert "this is a bug" not in driver.log.read_text()


def test_folders_that_a_failed_publish_made_go_and_those_that_were_there_stay(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.spoil = True
    name = f"{scripted.address}/app:1"
    driver.kubelet_root.mkdir()
    failure(lambda: driver.call("Node/NodePublishVolume", driver.publish_request("new", name)))
    assert list(driver.kubelet_root.iterdir()) == []
    driver.target("old").mkdir(parents=True)
    failure(lambda: driver.publish("old", name))
    assert driver.target("old").is_dir()


def test_a_bind_that_fails_takes_the_image_back(driver: Driver, image: str, tmp_path: Path) -> None:
    """The kubelet's folder on a file system that was made read-only."""
    driver.kubelet_root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "kubelet", driver.kubelet_root], check=True)
    driver.target("pod").parent.mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", driver.kubelet_root], check=True)
    code, details = failure(lambda: driver.publish("pod", image))
    assert (code, "Read-only" in details) == ("INTERNAL", True), details
    umount(driver.kubelet_root)
    nothing_left(driver, tmp_path / "root", "pod")


# ---- calls at the same time


def test_a_pod_with_another_image_does_not_wait_for_one_that_is_being_indexed(
    driver: Driver, other_image: str, scripted: ScriptedRegistry
) -> None:
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(driver.publish, "slow", f"{scripted.address}/app:1")
        assert scripted.at_gate.wait(60)
        other = driver.publish("fast", other_image)
        assert (other / "hello").read_text() == "other\n"
        assert not slow.done()
        scripted.open_gate()
        assert (slow.result() / "hello").read_text() == "world\n"


def test_identical_calls_in_flight_are_one_mount_of_one_download(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.close_gate()
    name = f"{scripted.address}/app:1"
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(driver.publish, "pod", name) for _ in range(4)]
        assert scripted.at_gate.wait(60)
        scripted.open_gate()
        assert len({call.result() for call in calls}) == 1
    assert len(servers(tmp_path / "root")) == 1
    assert len(mounts_below(driver.kubelet_root)) == 1


def test_a_publish_that_was_given_up_does_not_come_after_its_unpublish(
    start: Start, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    """The kubelet ended, twice, then the pod was deleted: both publishes still wait."""
    driver = start(linger_s=0)
    scripted.close_gate()
    name = f"{scripted.address}/app:1"
    with ThreadPoolExecutor() as pool:
        first, second = driver.begin_publish("pod", name), driver.begin_publish("pod", name)
        assert scripted.at_gate.wait(60)
        first.cancel()
        second.cancel()
        unpublished = pool.submit(driver.unpublish, "pod")
        scripted.open_gate()
        unpublished.result()
    wait_for(lambda: [line.get("code") for line in driver.lines()].count("CANCELLED") == 2)
    nothing_left(driver, tmp_path / "root", "pod")
