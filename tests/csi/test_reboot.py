"""A node that was booted anew: run/ speaks of another boot, and nothing is mounted."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.driver import failure, mounts_below, nothing_left, servers, umount
from tests.support.leftovers import diff_ids, litter, processes_of, unverified
from tests.support.machine import needs_fuse
from tests.support.node import kill
from tests.support.said import Say
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

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
    make_it_an_earlier_boots(root)
    payloads = sorted(os.listdir(root / "cache"))
    driver = start()
    assert mounts_below(tmp_path) == []
    assert [
        path for kind in ("mounts", "volumes", "images") for path in (root / "run" / kind).iterdir()
    ] == []
    assert not any(target.exists() for target in targets)
    assert sorted(os.listdir(root / "cache")) == payloads
    assert (driver.publish("one", image) / "hello").read_text() == "world\n"
    driver.unpublish("one")
    driver.unpublish("two")
    nothing_left(driver, root, "one", "two")


def make_it_an_earlier_boots(root: Path) -> None:
    said = [path for path in (root / "run").rglob("*") if path.is_file()]
    for path in (*said, *(root / "partial").glob("*.chunks")):
        path.write_bytes(path.read_bytes().replace(OURS.encode(), EARLIER.encode()))


MAP_HEADER_BYTES, CHUNK_BYTES, WRITTEN = 64, 128 << 10, 1
"""Of a chunk map: its states follow the header, a byte a chunk; WRITTEN is not yet durable."""


@pytest.mark.parametrize(
    "half", ["", ".v1.erofs", ".v1.toc"], ids=["no-index-half", "image-index-half", "layer's-half"]
)
def test_of_a_fill_that_the_power_cut_ended_only_what_was_durable_is_believed(
    half: str,
    start: Start,
    scripted: ScriptedRegistry,
    layout: Path,
    layout_data: bytes,
    tmp_path: Path,
    say: Say,
) -> None:
    root, name = tmp_path / "root", f"{scripted.address}/app:1"
    erofs, expected = {"front": "erofs"}, diff_ids(layout)
    (key,) = expected
    before = start()
    before.publish("pod", name)
    before.unpublish("pod")
    (root / "cache" / key).unlink()
    scripted.close_gate()
    chunk_map, payload = root / "partial" / f"{key}.chunks", root / "partial" / key
    with ThreadPoolExecutor() as pool:
        call = pool.submit(failure, lambda: before.publish("pod", name, attributes=erofs))
        assert scripted.at_gate.wait(60)
        wait_for(lambda: chunk_map.exists() and states(chunk_map).count(WRITTEN) > 3)
        assert unverified(root, expected) == []
        for pid in processes_of(root):
            with suppress(ProcessLookupError):  # with whom it spoke
                os.kill(pid, signal.SIGKILL)
        before.process.wait(20)
        assert call.result()[0] == "UNAVAILABLE"
    scripted.open_gate()
    wait_for(lambda: processes_of(root) == [])

    # as just before the fill's fsync: all is said to be written, nothing of it is on the disk
    lost = range(-(-payload.stat().st_size // CHUNK_BYTES))
    with payload.open("r+b") as file, chunk_map.open("r+b") as said:
        for place in lost:
            os.pwrite(file.fileno(), b"what the disk held before", place * CHUNK_BYTES)
            os.pwrite(said.fileno(), bytes([WRITTEN]), MAP_HEADER_BYTES + place)
    (root / "partial" / f"{key}.first").write_bytes(layout_data[:1000])
    (root / "index" / f"{key}.v1.toc.{os.getpid()}.1.aa.tmp").write_bytes(b"half")
    for path in (root / "index").glob(f"*{half}") if half else ():
        os.truncate(path, path.stat().st_size // 2)
    make_it_an_earlier_boots(root)
    say(f"{len(lost)} chunks that the map had as written were lost with the power")

    driver = start()
    assert unverified(root, expected) == []
    target = driver.publish("pod", name, attributes=erofs)
    assert (target / "data").read_bytes() == layout_data
    assert (root / "cache" / key).exists()
    assert unverified(root, expected) == []
    driver.unpublish("pod")
    wait_for(lambda: litter(root, driver=driver.process.pid) == [])


def states(chunk_map: Path) -> bytes:
    return chunk_map.read_bytes()[MAP_HEADER_BYTES:]


@pytest.mark.parametrize("folder", ["cache", "partial"])
def test_a_driver_does_not_start_on_a_root_of_two_file_systems(
    folder: str, start: Start, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / folder).symlink_to("/dev/shm")
    with pytest.raises(AssertionError, match=f"{folder}/ is on another file system"):
        start()
