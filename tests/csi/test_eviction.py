"""More images than the root holds: the driver makes room, and no reader notices."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support import images
from tests.support.anew import read_anew
from tests.support.driver import Driver, nothing_left
from tests.support.leftovers import diff_ids
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.wait import wait_for

pytestmark = needs_fuse

IMAGES, FIT, DATA_BYTES = 30, 10, 600_000
LAYER_BYTES = DATA_BYTES + 40_000
"""Its data, a tar's frame, and indexes, in blocks of 4 KiB."""

LIMIT = FIT * LAYER_BYTES


@pytest.fixture(scope="module")
def many(
    registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, bytes, str]]:
    """Images that share nothing, what `data` of each holds, and its layer's cache key."""
    home, found = tmp_path_factory.mktemp("many"), []
    for number in range(IMAGES):
        (home / f"{number}").mkdir()
        data = random.Random(number).randbytes(DATA_BYTES)
        (home / f"{number}/data").write_bytes(data)
        layer = images.layer(home / f"{number}", home / f"{number}.tar")
        images.write_layout(home / f"oci-{number}", [layer], codec="plain")
        name = images.push(home / f"oci-{number}", registry.address, f"many-{number}:1")
        (key,) = diff_ids(home / f"oci-{number}")
        found.append((name, data, key))
    return found


def cached_bytes(root: Path) -> int:
    total = 0
    for folder in ("cache", "partial", "index"):
        for path in (root / folder).iterdir():
            with suppress(FileNotFoundError):  # removed or renamed meanwhile
                total += os.lstat(path).st_blocks * 512 if path.name != "key" else 0
    return total


@dataclass(slots=True)
class Watch:
    """What a look at the root again and again came to, beside the pods."""

    root: Path
    used: set[str] = field(default_factory=set)
    looks: int = 0
    peak_bytes: int = 0
    gone: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self._ended.wait(0.02):
            self.looks += 1
            self.peak_bytes = max(self.peak_bytes, cached_bytes(self.root))
            before = set(self.used)
            absent = before - set(os.listdir(self.root / "cache"))
            self.gone |= absent & self.used  # used before the look, and after it

    @contextmanager
    def looking(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(self.look)
            try:
                yield
            finally:
                self._ended.set()
                found.result()


def test_thirty_images_on_a_root_that_holds_ten_four_at_a_time(
    start: Start,
    many: list[tuple[str, bytes, str]],
    tmp_path: Path,
    say: Say,
) -> None:
    root = tmp_path / "root"
    driver = start("--max-bytes", str(LIMIT))
    kept = driver.publish("kept", many[0][0])
    watch = Watch(root, {many[0][2]})
    read_bytes = 0

    def use(number: int) -> None:
        nonlocal read_bytes
        name, data, key = many[number]
        target = driver.publish(f"pod-{number}", name)
        watch.used.add(key)
        for _ in range(2):
            assert read_anew(target / "data") == data
            read_bytes += len(data)
        watch.used.remove(key)
        driver.unpublish(f"pod-{number}")

    with watch.looking(), ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(1, IMAGES)))
    wait_for(lambda: cached_bytes(root) <= LIMIT)
    assert len(os.listdir(root / "cache")) > FIT // 2  # room is made, not more than need be
    assert read_anew(kept / "data") == many[0][1]
    log = driver.lines()
    removed = [line["cache_key"] for line in log if line["event"] == "removed from the cache"]
    layers = [key for _, _, key in many if key in removed]
    say(
        f"{IMAGES} images, {read_bytes} bytes read and right, {len(layers)} layers evicted; "
        f"limit {LIMIT} bytes, peak {watch.peak_bytes} in {watch.looks} looks"
    )
    assert watch.gone == set()
    assert len(layers) >= IMAGES - FIT
    assert watch.looks > IMAGES
    # room is made before a layer comes, and again after it: four may be coming
    assert watch.peak_bytes <= LIMIT + 4 * LAYER_BYTES
    assert [line for line in log if "is a bug" in line["event"]] == []
    use(1)
    driver.unpublish("kept")
    nothing_left(driver, root, "kept", "pod-1")


def test_a_limit_that_what_is_in_use_exceeds_fails_no_publish(
    start: Start, many: list[tuple[str, bytes, str]]
) -> None:
    driver = start("--max-bytes", "1")
    for number in (0, 1):
        target = driver.publish(f"pod-{number}", many[number][0])
        assert (target / "data").read_bytes() == many[number][1]
    wait_for(lambda: says(driver, "over the limit, but all is in use"))


def test_a_disk_that_lacks_the_free_space_is_emptied_of_what_is_not_in_use(
    start: Start, many: list[tuple[str, bytes, str]], tmp_path: Path
) -> None:
    driver = start("--min-free", "99.9999%")
    driver.publish("pod", many[0][0])
    driver.publish("other", many[1][0])
    driver.unpublish("pod")
    wait_for(lambda: len(os.listdir(tmp_path / "root/cache")) == 1)


def says(driver: Driver, event: str) -> bool:
    return any(line["event"] == event for line in driver.lines())
