"""A node that was booted anew: run/ speaks of another boot, and nothing is mounted."""

import os
import signal
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.driver import mounts_below, nothing_left, servers, umount
from tests.support.machine import needs_fuse
from tests.support.node import kill

pytestmark = needs_fuse

OURS = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
EARLIER = "00000000-0000-0000-0000-000000000001"


def test_volumes_of_an_earlier_boot_are_cleaned_up_and_may_be_published_again(
    start: Start, image: str, other_image: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    before = start()
    targets = [before.publish("one", image), before.publish("two", other_image)]
    os.kill(before.process.pid, signal.SIGKILL)
    for server in servers(root):
        kill(server)
    for place in (*targets, *map(Path, mounts_below(root))):
        umount(place)
    said = [path for path in (root / "run").rglob("*") if path.is_file()]
    for path in said:
        path.write_bytes(path.read_bytes().replace(OURS.encode(), EARLIER.encode()))
    payloads = sorted(os.listdir(root / "cache"))
    driver = start()
    nothing_left(driver, root, "one", "two")
    assert sorted(os.listdir(root / "cache")) == payloads
    assert (driver.publish("one", image) / "hello").read_text() == "world\n"
    driver.unpublish("one")
    nothing_left(driver, root, "one", "two")


@pytest.mark.parametrize("folder", ["cache", "partial"])
def test_a_driver_does_not_start_on_a_root_of_two_file_systems(
    folder: str, start: Start, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / folder).symlink_to("/dev/shm")
    with pytest.raises(AssertionError, match=f"{folder}/ is on another file system"):
        start()
