"""A root as it is found: of this boot or an earlier one, on one file system or two."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from clipfs import errors
from clipfs.layer.layout import Layout
from clipfs.layer.partial import fill_lock
from clipfs.layer.use import InUse
from clipfs.mount import counters, records
from clipfs.mount.root import ready_root
from clipfs.system import processes
from clipfs.tiers.storing import mark_storing, storing_now
from tests.support.damage import Damage, fifo, folder
from tests.support.driver import cleaned_up
from tests.support.machine import needs_fuse

KEY = "sha256_" + "a" * 64


@pytest.fixture
def used(tmp_path: Path) -> Layout:
    """A root on which this process, alive, has left all that a process can leave in run/."""
    layout = Layout(tmp_path / "root")
    ready_root(layout)
    record = records.new_mount(
        image="r/i:1", digest="sha256:0", mountpoint=Path("/m"), layers=(KEY,), index_key=""
    )
    records.mounts(layout).write("mine", record)
    mark_storing(layout, KEY)
    (layout.run / f"{KEY}.fill").touch()
    layout.use_lock(KEY).touch()
    layout.proof_lock(KEY).touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(layout.run / "s"))
    return layout


def state(layout: Layout) -> tuple[list[str], list[str], list[str]]:
    """Records, layers that are being stored, and other names that stand in run/."""
    names = {path.name for path in layout.run.iterdir() if not path.is_dir()}
    return list(records.mounts(layout).all()), storing_now(layout), sorted(names)


def test_within_a_boot_everything_stays(used: Layout) -> None:
    before = state(used)
    assert before == (["mine"], [KEY], ["boot", "s", f"{KEY}.fill", f"{KEY}.proof", f"{KEY}.use"])
    ready_root(used)
    assert state(used) == before


@pytest.mark.parametrize("said", ["00000000-0000-0000-0000-000000000001", ""])
def test_after_a_reboot_what_the_earlier_boot_left_in_run_is_gone(said: str, used: Layout) -> None:
    (used.run / "boot").write_text(said)
    store = records.mounts(used)
    mine = store.read("mine")
    assert mine is not None
    store.write("mine", replace(mine, boot_id="another"))
    with counters.open_own(used):
        ready_root(used)
        assert state(used) == ([], [], ["boot"])
        assert os.listdir(used.run / "counters") == ["ended"]
    assert (used.run / "storing" / KEY).read_text() == "nobody\n"  # and so stored by the next
    assert (used.run / "boot").read_text() == processes.boot_id()


def test_after_a_reboot_locks_can_be_taken_by_whoever_comes(used: Layout) -> None:
    (used.run / "boot").write_text("another")
    ready_root(used)
    with fill_lock(used, KEY) as mine, InUse(used) as use:
        assert mine
        use.hold([KEY])


@needs_fuse
@pytest.mark.parametrize("folder", ["cache", "partial", "index"])
@pytest.mark.parametrize("how", ["mount", "bind", "link"])
def test_a_folder_on_another_file_system_is_refused_in_one_line(
    how: str, folder: str, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "root")
    layout.make()
    place, other = layout.root / folder, tmp_path / "other"
    other.mkdir()
    mount = ["mount", "-t", "tmpfs", "other"]
    if how == "bind":
        mount = ["mount", "--bind", str(other)]
    if how == "link":
        place.rmdir()
        place.symlink_to(other)
        place = other
    with cleaned_up(tmp_path):
        subprocess.run([*mount, place], check=True)
        with pytest.raises(errors.InvalidInput, match=f"{folder}/ is on another file system"):
            ready_root(layout)


def test_a_root_that_is_a_mount_itself_or_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "there")
    ready_root(Layout(tmp_path / "root"))
    assert (tmp_path / "there/run/boot").exists()


@pytest.mark.parametrize("name", ["cache", "partial", "index", "run"])
def test_a_file_in_a_folders_place_is_named_with_the_way_out(name: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.root.mkdir()
    (layout.root / name).touch()
    with pytest.raises(errors.NodeFault, match=f"root/{name} is no folder; move it away"):
        ready_root(layout)


@pytest.mark.parametrize("damage", [fifo, folder])
def test_what_is_no_file_in_run_boots_place_is_named_with_the_way_out(
    damage: Damage, used: Layout
) -> None:
    damage(used.run / "boot")
    with pytest.raises(errors.NodeFault, match="run/boot is no file; move it away"):
        ready_root(used)
