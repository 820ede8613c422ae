"""mountinfo is read whatever names are in it."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs.mount.mountinfo import Mount, mounts_at, parse, read_mounts

LINE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: not {0, 0x2F} & set(name))


def escaped(name: bytes) -> bytes:
    """As the kernel's mangle(): blanks, tabs, newlines, backslashes and # as octal."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)


def test_a_line_is_taken_apart_whatever_optional_fields_it_has() -> None:
    assert list(parse(LINE)) == [
        Mount(mount_id=36, device="98:0", root="/mnt1", mountpoint=Path("/mnt2"),
              options="rw,noatime", fstype="ext3", source="/dev/root")
    ]  # fmt: skip
    assert len(list(parse(LINE.replace(b" master:1 shared:2", b"") + LINE))) == 2


@given(NAMES, NAMES, NAMES)
def test_names_come_back_however_the_kernel_escapes_them(
    root: bytes, mountpoint: bytes, source: bytes
) -> None:
    line = b"1 2 0:44 /%s /%s ro - fuse.clip %s ro\n"
    (mount,) = parse(line % (escaped(root), escaped(mountpoint), escaped(source)))
    assert os.fsencode(mount.root) == b"/" + root
    assert mount.mountpoint == Path(os.fsdecode(b"/" + mountpoint))
    assert os.fsencode(mount.source) == source


@pytest.mark.parametrize("line", [b"", b"\n", b"what - is this\n", b"x y 0:1 / /m ro - a b c\n"])
def test_a_line_that_is_not_understood_is_passed_over(line: bytes) -> None:
    assert [mount.mount_id for mount in parse(line + LINE)] == [36]


@given(st.binary(max_size=200))
def test_noise_never_raises(noise: bytes) -> None:
    assert list(parse(noise + b"\n" + LINE))


def test_the_machines_own_mounts_are_read() -> None:
    assert {mount.mountpoint for mount in read_mounts()} >= {Path("/"), Path("/proc")}
    assert mounts_at(Path("/proc/../proc/"))[-1].fstype == "proc"
    assert mounts_at(Path("/no/such/place")) == []
