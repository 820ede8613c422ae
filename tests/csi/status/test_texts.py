"""What people read of a volume."""

from dataclasses import replace

import pytest

from clipfs.errors import ClipError, DiskFull
from csi.status.texts import (
    WAY_OUT,
    failure_text,
    mounted_text,
    one_line,
    resolved_text,
    time_text,
)
from tests.support.reports import IMAGE, MOUNTED


def test_a_resolved_image_is_named_by_its_digest() -> None:
    assert resolved_text(IMAGE) == (
        f"registry.example/app:1 is sha256:{'1' * 64}, 3 layers, 240 MB"
    )


def test_a_mount_says_front_seconds_and_bytes_by_tier() -> None:
    assert mounted_text(IMAGE, MOUNTED) == (
        "registry.example/app:1 mounted with erofs in 1.2 s, 2 of 3 layers on this node; read so "
        "far: disk 4.3 MB, content cache 430 kB, registry 160 MB"
    )


def test_a_mount_that_nobody_counts_says_no_bytes() -> None:
    alone = replace(MOUNTED, bytes_by_tier={}, complete=3)
    assert mounted_text(IMAGE, alone) == (
        "registry.example/app:1 mounted with erofs in 1.2 s, 3 of 3 layers on this node"
    )


def test_a_mount_that_was_there_says_that_it_is_shared() -> None:
    assert mounted_text(IMAGE, replace(MOUNTED, is_shared=True)) == (
        "registry.example/app:1 mounted with erofs, sharing a mount that was there (made in "
        "1.2 s), 2 of 3 layers on this node; read so far: disk 4.3 MB, content cache 430 kB, "
        "registry 160 MB"
    )


def test_a_mount_whose_server_had_died_says_who_sees_the_new_one() -> None:
    assert mounted_text(IMAGE, replace(MOUNTED, is_again=True)) == (
        "registry.example/app:1 mounted again with erofs in 1.2 s, 2 of 3 layers on this node; "
        "read so far: disk 4.3 MB, content cache 430 kB, registry 160 MB; containers that ran "
        "before see it once they are started again, or at once with mountPropagation: "
        "HostToContainer"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "0.012 s"), (1.26, "1.3 s"), (20, "20 s"), (89, "89 s"),
     (90, "2 min"), (600, "10 min")],
)  # fmt: skip  # a table
def test_times(seconds: float, said: str) -> None:
    assert time_text(seconds) == said


@pytest.mark.parametrize("kind", sorted(WAY_OUT, key=str))
def test_a_failure_says_the_way_out_where_its_error_cannot(kind: type[ClipError]) -> None:
    assert failure_text(kind("app:1:\n wrong")) == f"app:1: wrong; {WAY_OUT[kind]}"


def test_a_failure_whose_error_knows_the_way_out_says_that_alone() -> None:
    assert failure_text(DiskFull("no space left; free space")) == "no space left; free space"


def test_every_text_is_one_line_that_the_api_takes() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("ä" * 2_000).encode()) <= 1_000
