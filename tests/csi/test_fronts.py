"""A volume's front: the attribute, the driver's own option, and mounts that need no process."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.csi.conftest import Lazy, Start
from tests.support.driver import (
    Driver,
    failure,
    fstype,
    mounts_below,
    nothing_left,
    umount,
)
from tests.support.machine import needs_fuse
from tests.support.wait import wait_for

pytestmark = needs_fuse

EROFS, FUSE = "erofs", "fuse.clip"


def test_a_volume_says_its_front_and_the_driver_what_holds_if_it_is_silent(
    start: Start, image: str, layout_data: bytes
) -> None:
    driver = start("--front", "erofs")
    silent = driver.publish("silent", image)
    fuse = driver.publish("fuse", image, attributes={"front": "fuse"})
    auto = driver.publish("auto", image, attributes={"front": "auto"})
    assert [fstype(one) for one in (silent, fuse, auto)] == [EROFS, FUSE, EROFS]
    for target in (silent, fuse, auto):
        assert (target / "data").read_bytes() == layout_data


@pytest.mark.parametrize("last", ["erofs", "fuse"])
def test_each_front_of_an_image_is_mounted_once_and_goes_with_the_last_pod(
    last: str, driver: Driver, image: str, tmp_path: Path
) -> None:
    fronts = {"e1": "erofs", "f1": "fuse", "e2": "erofs", "f2": "fuse"}
    for name, front in fronts.items():
        driver.publish(name, image, attributes={"front": front})
    assert len(mounts_below(tmp_path / "root")) == 2
    for name in sorted(fronts, key=lambda name: fronts[name] == last):
        target = driver.target(name)
        assert (target / "hello").read_text() == "world\n"
        driver.unpublish(name)
    nothing_left(driver, tmp_path / "root", *fronts)


def test_a_volume_of_erofs_outlives_drivers_and_the_next_one_adopts_it(
    start: Start, image: str, tmp_path: Path
) -> None:
    first = start("--front", "auto")
    target = first.publish("pod", image)
    assert fstype(target) == EROFS
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(20)
    assert (target / "hello").read_text() == "world\n"
    second = start("--front", "auto")
    assert second.publish("pod", image) == target
    second.publish("other", image)
    assert len(mounts_below(tmp_path / "root")) == 1
    assert second.usage("pod") == [3145740, 5]
    second.unpublish("pod")
    second.unpublish("other")
    nothing_left(second, tmp_path / "root", "pod", "other")


def test_an_erofs_mount_that_somebody_took_away_is_made_again(
    start: Start, image: str, tmp_path: Path
) -> None:
    driver = start("--front", "erofs")
    driver.publish("one", image)
    (place,) = (tmp_path / "root/run/images").iterdir()
    umount(place)
    target = driver.publish("two", image)
    assert (target / "hello").read_text() == "world\n"
    assert fstype(place) == EROFS
    driver.unpublish("one")
    driver.unpublish("two")
    nothing_left(driver, tmp_path / "root", "one", "two")


def test_an_erofs_volume_whose_record_was_lost_is_still_taken_away(
    start: Start, image: str, tmp_path: Path
) -> None:
    driver = start("--front", "erofs")
    target = driver.publish("pod", image)
    for record in (tmp_path / "root/run/volumes").iterdir():
        record.unlink()
    driver.unpublish("pod")
    assert not os.path.lexists(target)
    nothing_left(driver, tmp_path / "root", "pod")


def test_erofs_brings_a_lazy_image_whole_to_the_node(lazy: Lazy, image: str) -> None:
    assert fstype(lazy.target) == FUSE
    target = lazy.driver.publish("whole", image, attributes={"front": "erofs"})
    assert fstype(target) == EROFS
    assert (target / "hello").read_text() == "world\n"
    wait_for(lambda: (lazy.target / "hello").read_text() == "world\n")


def test_erofs_that_the_kernel_cannot_is_the_nodes_fault_and_leaves_nothing(
    start: Start, image: str, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "root", tmp_path / "root"], check=True)
    try:
        driver = start()
        erofs = {"front": "erofs"}
        code, said = failure(lambda: driver.publish("pod", image, attributes=erofs))
        assert (code, "--front erofs: not with this kernel" in said) == ("INTERNAL", True)
        nothing_left(driver, tmp_path / "root", "pod")
        assert fstype(driver.publish("pod", image, attributes={"front": "auto"})) == FUSE
        driver.unpublish("pod")
        driver.process.terminate()
        driver.process.wait(20)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "root"], check=True)
