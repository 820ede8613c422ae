"""Records say what was meant, mountinfo and /proc what is."""

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from clipfs.layer.layout import Layout
from clipfs.mount import records
from clipfs.mount.mountinfo import Mount
from clipfs.mount.records import MountRecord
from clipfs.system.processes import is_alive, start_time, wait_for_end


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path)
    found.make()
    return found


def new(mountpoint: str = "/m") -> MountRecord:
    return records.new_mount(
        image="r/i:1",
        digest="sha256:0",
        mountpoint=Path(mountpoint),
        layers=("sha256_1", "sha256_2"),
        index_key="sha256_0",
    )


def mount_of(record: MountRecord, *, device: str = "0:44", fstype: str = "fuse.clip") -> Mount:
    return Mount(
        mount_id=1, device=device, root="/", mountpoint=Path(record.mountpoint), options="ro",
        fstype=fstype, source=record.image,
    )  # fmt: skip


def test_what_is_written_is_read_until_it_is_removed(layout: Layout) -> None:
    store, record = records.mounts(layout), new()
    assert store.all() == {}
    store.write(record.id, record)
    assert store.read(record.id) == record
    assert store.all() == {record.id: record}
    store.remove(record.id)
    store.remove(record.id)
    assert (store.read(record.id), store.all()) == (None, {})


def test_no_mount_waits_for_the_disk_to_have_its_record(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int) -> None:
        raise AssertionError(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", refused)
    store, record = records.mounts(layout), new()
    store.write(record.id, record)
    assert store.read(record.id) == record


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 5}', b"\xff\xff"])
def test_a_record_that_is_nonsense_is_no_record(layout: Layout, content: bytes) -> None:
    store, record = records.mounts(layout), new()
    store.write(record.id, record)
    (layout.run / "mounts" / "torn.json").write_bytes(content)
    assert store.read("torn") is None
    assert list(store.all()) == [record.id]


def test_records_are_for_root_only(layout: Layout) -> None:
    records.mounts(layout).write("a", new())
    assert (layout.run / "mounts").stat().st_mode & 0o777 == 0o700
    assert (layout.run / "mounts/a.json").stat().st_mode & 0o777 == 0o600


def test_two_mounts_of_one_process_have_two_records() -> None:
    assert new().id != new().id


def test_a_record_is_served_by_the_process_that_wrote_it_in_this_boot_only() -> None:
    record = new()
    assert records.is_served(record)
    for other in ({"boot_id": "another"}, {"started": record.started + 1}, {"pid": 1}):
        assert not records.is_served(msgspec.structs.replace(record, **other))


def test_a_record_speaks_of_its_own_mount_only() -> None:
    record = new()
    mounted = msgspec.structs.replace(record, device="0:44")
    assert records.is_mount_of(record, mount_of(record))
    assert records.is_mount_of(mounted, mount_of(record))
    assert not records.is_mount_of(mounted, mount_of(record, device="0:45"))
    assert not records.is_mount_of(mounted, mount_of(record, fstype="tmpfs"))
    assert not records.is_mount_of(mounted, mount_of(new("/other")))


def test_a_record_without_a_mount_is_not_living(layout: Layout) -> None:
    record = msgspec.structs.replace(new(), device="0:0")
    records.mounts(layout).write(record.id, record)
    assert records.living(layout) == []


def test_a_process_is_told_from_a_later_one_and_from_a_zombie() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        started = start_time(process.pid)
        assert started is not None
        assert is_alive(process.pid, started)
        assert not wait_for_end(process.pid, started, within_s=0)
        process.kill()
        assert wait_for_end(process.pid, started, within_s=10)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(process.pid) is None  # a zombie, which Popen has not reaped yet
    assert wait_for_end(process.pid, started, within_s=0)


@pytest.mark.parametrize(
    ("maker", "stays"),
    [
        pytest.param(os.getpid(), True, id="its-mount-is-not-shown-yet"),
        pytest.param(4194304, False, id="its-maker-has-ended"),  # above the kernel's highest pid
    ],
)
def test_a_kernel_mounts_record_is_kept_while_its_mount_is_made(
    maker: int, stays: bool, layout: Layout
) -> None:
    record = msgspec.structs.replace(
        new(), id=f"{maker}-0", front="erofs", pid=0, started=0, device="0:999999"
    )
    records.mounts(layout).write(record.id, record)
    records.forget_ended(layout)
    assert (records.mounts(layout).read(record.id) is not None) == stays
