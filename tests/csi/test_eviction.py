"""More images than the root holds: the driver makes room, and no reader notices."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support import images
from tests.support.driver import Driver, nothing_left
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

pytestmark = needs_fuse

IMAGES, FIT, DATA_BYTES = 30, 10, 600_000
LIMIT = FIT * (DATA_BYTES + 40_000)
"""Of a layer: its data, a tar's frame, and indexes, in blocks of 4 KiB."""


@pytest.fixture(scope="module")
def many(
    registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, bytes]]:
    """Images that share nothing, and what `data` of each holds."""
    home, found = tmp_path_factory.mktemp("many"), []
    for number in range(IMAGES):
        (home / f"{number}").mkdir()
        data = random.Random(number).randbytes(DATA_BYTES)
        (home / f"{number}/data").write_bytes(data)
        layer = images.layer(home / f"{number}", home / f"{number}.tar")
        images.write_layout(home / f"oci-{number}", [layer], codec="plain")
        name = images.push(home / f"oci-{number}", registry.address, f"many-{number}:1")
        found.append((name, data))
    return found


def cached_bytes(root: Path) -> int:
    files = [path for folder in ("cache", "partial", "index") for path in (root / folder).iterdir()]
    return sum(os.lstat(path).st_blocks * 512 for path in files if path.name != "key")


def test_thirty_images_on_a_root_that_holds_ten_four_at_a_time(
    start: Start, many: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    driver = start("--max-bytes", str(LIMIT))
    kept = driver.publish("kept", many[0][0])

    def use(number: int) -> None:
        name, data = many[number]
        target = driver.publish(f"pod-{number}", name)
        assert (target / "data").read_bytes() == data
        driver.unpublish(f"pod-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(1, IMAGES)))
    wait_for(lambda: cached_bytes(root) <= LIMIT)
    assert len(os.listdir(root / "cache")) > FIT // 2  # room is made, not more than need be
    drop_caches()
    assert (kept / "data").read_bytes() == many[0][1]
    log = driver.lines()
    assert [line for line in log if "is a bug" in line["event"]] == []
    use(1)
    driver.unpublish("kept")
    nothing_left(driver, root, "kept", "pod-1")


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def test_a_limit_that_what_is_in_use_exceeds_fails_no_publish(
    start: Start, many: list[tuple[str, bytes]]
) -> None:
    driver = start("--max-bytes", "1")
    for number in (0, 1):
        target = driver.publish(f"pod-{number}", many[number][0])
        assert (target / "data").read_bytes() == many[number][1]
    wait_for(lambda: says(driver, "over the limit, but all is in use"))


def test_a_disk_that_lacks_the_free_space_is_emptied_of_what_is_not_in_use(
    start: Start, many: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    driver = start("--min-free", "99.9999%")
    driver.publish("pod", many[0][0])
    driver.publish("other", many[1][0])
    driver.unpublish("pod")
    wait_for(lambda: len(os.listdir(tmp_path / "root/cache")) == 1)


def says(driver: Driver, event: str) -> bool:
    return any(line["event"] == event for line in driver.lines())
