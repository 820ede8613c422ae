"""An unpublish takes a volume away whatever has become of it, and never waits for a dead mount."""

import os
import signal
import subprocess
from pathlib import Path

from tests.csi.conftest import Start
from tests.support.driver import (
    Driver,
    M,
    frozen,
    mounts_below,
    nothing_left,
    servers,
    umount,
)
from tests.support.machine import needs_fuse
from tests.support.node import alive, kill
from tests.support.wait import wait_for

pytestmark = needs_fuse


def test_a_dead_servers_volumes_are_unpublished(driver: Driver, image: str, tmp_path: Path) -> None:
    driver.publish("one", image)
    driver.publish("two", image)
    kill(servers(tmp_path / "root")[0])
    driver.unpublish("one")
    driver.unpublish("two")
    nothing_left(driver, tmp_path / "root", "one", "two")


def test_a_frozen_server_holds_neither_stats_nor_publish_nor_adoption_nor_unpublish(
    start: Start, image: str, tmp_path: Path
) -> None:
    first = start()
    first.publish("one", image)
    (server,) = servers(tmp_path / "root")
    os.kill(server, signal.SIGSTOP)
    wait_for(lambda: frozen(server))
    try:
        first.publish("two", image)
        first.publish("two", image)
        sizes = first.usage("one")
        first.process.kill()
        first.process.wait()
        second = start()
        assert second.usage("two") == sizes == [3145740, 5]
        second.publish("one", image)
        second.unpublish("one")
        second.unpublish("two")
        assert mounts_below(tmp_path) == []
        assert not second.target("two").exists()
        third = second.publish("three", image)
        assert (third / "hello").read_text() == "world\n", "a server of its own"
        second.unpublish("three")
    finally:
        os.kill(server, signal.SIGCONT)
    wait_for(lambda: not alive(server))
    nothing_left(second, tmp_path / "root", "one", "two", "three")


def test_a_volume_that_somebody_unmounted_is_unpublished_and_published_again(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    umount(driver.publish("pod", image))
    driver.target("pod").rmdir()
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")
    umount(driver.publish("pod", image))
    assert (driver.publish("pod", image, attributes={"pullPolicy": "Always"}) / "hello").exists()


def test_mounts_over_and_inside_a_volume_go_with_it(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.publish("pod", image)
    subprocess.run(["mount", "-t", "tmpfs", "inside", target / "deep"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "over", target], check=True)
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_subpath_that_the_kubelet_bound_outlives_its_volume_and_is_no_obstacle(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.publish("pod", image)
    (server,) = servers(tmp_path / "root")
    subpath = driver.kubelet_root / "pods/pod/volume-subpaths/image/main/0"
    subpath.mkdir(parents=True)
    subprocess.run(["mount", "--bind", target / "deep/er", subpath], check=True)
    with (subpath / "file").open() as held:
        driver.unpublish("pod")
        assert not target.exists()
        assert held.read() == "below\n"
    assert (subpath / "file").read_text() == "below\n"
    again = driver.publish("next", image)
    assert (again / "deep/er/file").read_text() == "below\n"
    umount(subpath)
    wait_for(lambda: not alive(server))
    driver.unpublish("next")
    nothing_left(driver, tmp_path / "root", "pod", "next")


def test_a_volume_whose_record_was_lost_is_unpublished(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    driver.publish("pod", image)
    (record,) = (tmp_path / "root/run/volumes").iterdir()
    record.write_bytes(b"\0" * 300)
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_volume_is_not_taken_away_in_the_name_of_another(driver: Driver, image: str) -> None:
    target = driver.publish("pod", image)
    request = M["Unpublish"](volume_id="csi-other", target_path=str(target))
    driver.call("Node/NodeUnpublishVolume", request)
    assert (target / "hello").read_text() == "world\n"


def test_an_unpublish_before_any_publish_is_ok(driver: Driver) -> None:
    driver.unpublish("never")
    target = driver.target("empty")
    target.mkdir(parents=True)
    driver.unpublish("empty")
    assert not target.exists()
