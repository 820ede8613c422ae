"""Collecting beside those who mount, fill and collect too: locks, records and second looks."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from clipfs.cache.collect import collect
from clipfs.cache.inventory import Item, inventory
from clipfs.cache.limits import Limits
from clipfs.layer.layout import Layout
from clipfs.layer.origin import record_name
from clipfs.layer.partial import Partial, filling
from clipfs.layer.use import InUse, touch
from clipfs.mount import counters, figures, records
from clipfs.system.locks import alone
from clipfs.system.processes import name_of
from clipfs.tiers.storing import mark_storing
from tests.support.machine import needs_fuse
from tests.support.wait import wait_for

A, B, C = (f"sha256_{letter * 64}" for letter in "abc")
NOTHING = Limits(max_bytes=0)
HOST = "registry.example"


def add(layout: Layout, key: str, *, used_s: int) -> None:
    """A complete layer of 64 KiB, and its index."""
    layout.payload(key).write_bytes(bytes(65_536))
    layout.layer_index(key).write_bytes(b"index")
    for path in (layout.payload(key), layout.layer_index(key)):
        os.utime(path, (used_s, used_s))


def keys(layout: Layout) -> list[str]:
    return [item.key for item in inventory(layout)]


@pytest.fixture
def three(layout: Layout) -> Layout:
    """Layers A, B, C; B was used last, C first."""
    for key, used_s in ((A, 20), (B, 30), (C, 10)):
        add(layout, key, used_s=used_s)
    return layout


def test_the_least_recently_used_go_first_and_whole(three: Layout) -> None:
    found = collect(three, Limits(max_bytes=100_000))
    assert [item.key for item in found.removed] == [C, A]
    assert keys(three) == [B]
    assert sorted(os.listdir(three.cache) + os.listdir(three.index)) == [B, f"{B}.v1.toc"]
    assert (found.kept_bytes <= 100_000, found.excess_bytes) == (True, 0)


def test_origin_records_go_with_their_layer_and_are_no_litter(three: Layout) -> None:
    records = {key: three.index / record_name(key, "registry.example") for key in (A, B, C)}
    for path in records.values():
        path.write_bytes(b"record")
        os.utime(path, (5, 5))
    half = three.index / f"{records[B].name}.4194304.1.ab.tmp"  # of a dead process
    half.write_bytes(b"rec")
    found = collect(three, Limits(max_bytes=100_000))
    assert [item.key for item in found.removed] == [C, A]
    assert sorted(os.listdir(three.index)) == [records[B].name, f"{B}.v1.toc"]


def test_what_somebody_prepares_stays_and_another_goes_instead(three: Layout) -> None:
    with InUse(three) as in_use:
        in_use.hold([C])
        found = collect(three, Limits(max_bytes=140_000))
    assert [item.key for item in found.removed] == [A]
    assert (sorted(keys(three)), found.excess_bytes) == ([B, C], 0)


def test_who_takes_a_layer_up_without_its_lock_is_seen_by_the_record(
    three: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look, under the lock: the record came after the first one."""
    monkeypatch.setattr("clipfs.cache.collect.users_of", lambda _: {C: ("/mnt",)})
    assert [item.key for item in collect(three, NOTHING).removed] == [A, B]
    assert keys(three) == [C]


@needs_fuse
def test_a_disk_without_room_for_one_more_file_is_made_room_on(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=64", "root", root], check=True)
    try:
        layout = Layout(root)
        layout.make()
        for key in (A, B, C):
            add(layout, key, used_s=10)
        with suppress(OSError):
            for number in range(64):
                (root / f"filler-{number}").touch()
        with pytest.raises(OSError, match="No space left"):
            (root / "one-more").touch()
        assert len(collect(layout, NOTHING).removed) == 3
        assert keys(layout) == []
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_touch_saves_a_layer_from_being_the_next(three: Layout) -> None:
    touch(three, layers=[C], image=A)
    assert [item.key for item in collect(three, Limits(max_bytes=100_000)).removed] == [A, B]


def test_without_limits_layers_stay(three: Layout) -> None:
    assert collect(three, Limits()).removed == []
    assert keys(three) == [A, B, C]


def test_partial_payloads_go_with_their_maps(layout: Layout) -> None:
    with Partial(layout, A, payload_bytes=1 << 20) as partial:
        partial.write(range(1), b"x" * 131_072)
        assert [item.state for item in collect(layout, NOTHING).removed] == ["partial"]
    assert os.listdir(layout.partial) == []


def test_what_another_process_prepares_to_mount_stays_until_that_ends(three: Layout) -> None:
    script = (
        "import sys; from pathlib import Path; from clipfs.layer.layout import Layout\n"
        "from clipfs.layer.use import InUse\n"
        "with InUse(Layout(Path(sys.argv[1]))) as use:\n"
        "    use.hold(sys.argv[2:]); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(three.root), A, C]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = collect(three, NOTHING)
        assert [item.key for item in found.removed] == [B]
        assert found.excess_bytes == found.kept_bytes > 0
        holder.kill()
    assert [item.key for item in collect(three, NOTHING).removed] == [C, A]
    assert list(three.run.glob("*.use")) == []


def test_one_who_wants_a_layer_that_is_being_removed_waits(layout: Layout) -> None:
    script = (
        "import sys; from pathlib import Path; from clipfs.layer.layout import Layout\n"
        "from clipfs.layer.use import InUse\n"
        "with InUse(Layout(Path(sys.argv[1]))) as use:\n"
        "    print('wants', flush=True); use.hold([sys.argv[2]]); print('held', flush=True)\n"
    )
    with alone(layout.use_lock(A)) as mine:
        assert mine
        command = [sys.executable, "-c", script, str(layout.root), A]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"wants\n"
        waits = f"/proc/{process.pid}/wchan"
        wait_for(lambda: "lock" in Path(waits).read_text())
    assert process.communicate()[0] == b"held\n"
    assert list(layout.run.glob("*.use")) == []


def test_what_a_record_names_stays_whether_its_mount_is_shown_yet_or_not(three: Layout) -> None:
    record = records.new_mount(  # of this process, which lives
        image="r/i:1",
        digest="sha256:0",
        mountpoint=Path("/nowhere"),
        layers=(A, C),
        index_key="sha256_0",
    )
    records.mounts(three).write(record.id, record)
    assert [item.key for item in collect(three, NOTHING).removed] == [B]


def test_what_is_being_filled_or_stored_stays(three: Layout) -> None:
    mark_storing(three, B)
    with filling(three, C, record_name(C, HOST)) as mine:
        assert mine
        assert [item.key for item in collect(three, NOTHING).removed] == [A]


def test_what_is_taken_up_between_the_look_and_the_removal_stays(
    three: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_meanwhile(layout: Layout) -> list[Item]:
        found = inventory(layout)
        touch(layout, layers=[C], image=A)
        return found

    monkeypatch.setattr("clipfs.cache.collect.inventory", used_meanwhile)
    collect(three, Limits(max_bytes=100_000))
    assert C in keys(three)


def test_an_image_index_goes_with_a_layer_that_it_names_and_not_while_it_is_held(
    layout: Layout,
) -> None:
    layout.image_index(A).write_bytes(b"unreadable")
    with InUse(layout) as use:
        use.hold([A])
        assert collect(layout, Limits()).removed == []
    assert [item.kind for item in collect(layout, Limits()).removed] == ["image"]


DEAD = f"{os.getpid()}.1"
"""A process of this one's number that started at another time."""


def test_what_dead_processes_left_is_swept_and_what_living_ones_do_is_not(layout: Layout) -> None:
    killed, living = (layout.first_pass(record_name(key, HOST)) for key in (A, B))
    killed.write_bytes(b"of a killed one")
    living.write_bytes(b"of a living one")
    old, forsaken, fresh, other = (
        layout.index / f"{A}.v1.toc.{name}.tmp"
        for name in (
            f"{name_of(os.getpid())}.aa",
            f"{DEAD}.bb",
            f"{name_of(os.getpid())}.cc",
            "not-ours",
        )
    )
    for path in (old, forsaken, fresh, other):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    record = records.new_mount(
        image="r/i:1", digest="sha256:0", mountpoint=Path("/m"), layers=(), index_key=""
    )
    for record_id, started in (("dead", record.started + 1), ("alive", record.started)):
        mine = replace(record, id=record_id, started=started, device="0:9999")
        records.mounts(layout).write(record_id, mine)
    with filling(layout, B, record_name(B, HOST)):
        collect(layout, Limits())
    assert os.listdir(layout.partial) == [living.name]
    assert sorted(os.listdir(layout.index)) == sorted([fresh.name, other.name])
    assert list(records.mounts(layout).all()) == ["alive"]


@needs_fuse
def test_what_is_mounted_under_run_is_not_looked_into(layout: Layout) -> None:
    """Not the files of an image, and never by a question to its server, which may be frozen."""
    mount = layout.run / "images" / A
    mount.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "image", mount], check=True)
    try:
        (mount / "old.tmp").write_bytes(b"of the image")
        os.utime(mount / "old.tmp", (0, 0))
        collect(layout, Limits())
        assert os.listdir(mount) == ["old.tmp"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_records_that_did_not_get_their_names_are_swept(layout: Layout) -> None:
    left = [layout.run / name / "x.tmp" for name in ("mounts", "volumes", ".")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    collect(layout, Limits())
    assert not any(path.exists() for path in left)


def test_locks_that_nobody_holds_are_swept(layout: Layout) -> None:
    record, live = (record_name(key, HOST) for key in (A, B))
    for name in (f"{A}.fill", f"{A}.use", f"{B}.fill", f"{B}.use", f"{record}.proof"):
        (layout.run / name).write_bytes(b"")
    with filling(layout, B, live), InUse(layout) as use:
        use.hold([B])
        collect(layout, Limits())
        assert sorted(path.name for path in layout.run.glob("sha256_*")) == [
            f"{B}.fill",
            f"{B}.use",
            f"{live}.proof",
        ]


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "not-whole"])
def test_a_partial_payload_goes_once_the_layer_is_whole_and_nobody_fills_it(
    is_whole: bool, layout: Layout
) -> None:
    if is_whole:
        add(layout, A, used_s=0)
        add(layout, B, used_s=0)
    for key in (A, B):
        Partial(layout, key, payload_bytes=65_536).close()
    with filling(layout, B, record_name(B, HOST)):
        collect(layout, Limits())
    kept = (B,) if is_whole else (A, B)
    names = [name for key in kept for name in (key, f"{key}.chunks")]
    assert sorted(os.listdir(layout.partial)) == names


def test_what_killed_processes_counted_is_kept_and_their_files_are_not(layout: Layout) -> None:
    with counters.open_own(layout) as own:
        own.count_read("disk", 7, 0.001)
        mine = layout.run / "counters" / name_of(os.getpid())
        mine.with_name(DEAD).write_bytes(mine.read_bytes())
        collect(layout, Limits())
        assert sorted(os.listdir(mine.parent)) == [mine.name, "ended"]
        assert counters.sum_all(layout)["disk"] == {"reads": 2, "bytes": 14}


def test_a_disk_without_room_for_the_sum_of_the_numbers_is_collected_all_the_same(
    three: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    monkeypatch.setattr(counters, "fold_ended", refuse)
    monkeypatch.setattr(counters, "count_evicted", refuse)
    assert [item.key for item in collect(three, NOTHING).removed] == [C, A, B]


def test_layers_that_made_room_are_counted_and_image_indexes_are_not(three: Layout) -> None:
    unreadable = three.image_index(f"sha256_{'d' * 64}")
    unreadable.write_bytes(b"index")
    collect(three, Limits())
    assert not unreadable.exists()
    assert counters.numbers_of_all(three)[figures.EVICTED] == 0
    for _ in range(2):  # the second time there is nothing left to go
        collect(three, NOTHING)
        assert counters.numbers_of_all(three)[figures.EVICTED] == 3
