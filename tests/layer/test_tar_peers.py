"""Archives as GNU tar, bsdtar and Python write them, compared with Python's own reader.

That reader shares no code with ours; xattrs, which it does not read, are compared with the
file system that was archived.
"""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from clipfs.layer.index import Entry, EntryKind
from tests.layer.tars import entries_of
from tests.support.machine import needs_fuse

pytestmark = needs_fuse

KINDS = {
    tarfile.REGTYPE: EntryKind.FILE,
    tarfile.AREGTYPE: EntryKind.FILE,
    tarfile.DIRTYPE: EntryKind.DIRECTORY,
    tarfile.SYMTYPE: EntryKind.SYMLINK,
    tarfile.LNKTYPE: EntryKind.HARDLINK,
    tarfile.CHRTYPE: EntryKind.CHARACTER,
    tarfile.BLKTYPE: EntryKind.BLOCK,
    tarfile.FIFOTYPE: EntryKind.FIFO,
}
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
KEPT = ("user.", "security.capability", "system.posix_acl_")

Archiver = Callable[[Path, Path], None]


class Facts(NamedTuple):
    """What both readers say of a member."""

    path: bytes
    kind: EntryKind
    mode: int
    owner: tuple[int, int]
    mtime: tuple[int, int]
    content: bytes
    target: bytes
    device: tuple[int, int]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every format can hold."""
    root = tmp_path_factory.mktemp("plain")
    (root / "folder").mkdir()
    (root / "folder/file").write_bytes(b"content" * 1000)
    (root / "empty").touch()
    (root / "tool").write_bytes(b"#!")
    (root / "folder").chmod(0o1777)
    os.link(root / "folder/file", root / "same")
    (root / "to").symlink_to("../outside/./x")
    for number, path in enumerate([*sorted(root.rglob("*")), root]):
        os.chown(path, 1000 + number, 2000 + number, follow_symlinks=False)
        os.utime(path, ns=(0, 1_600_000_000_000_000_000 + number * 10**9), follow_symlinks=False)
    (root / "tool").chmod(0o6755)  # which chown would undo
    return root


@pytest.fixture(scope="module")
def special(plain: Path) -> Path:
    """That, with what V7 has no word for."""
    root = plain.with_name("special")
    subprocess.run(["cp", "--archive", str(plain), str(root)], check=True)
    os.mkfifo(root / "pipe", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70))
    return root


@pytest.fixture(scope="module")
def odd(special: Path) -> Path:
    """That, with what only the GNU and PAX formats hold."""
    root = special.with_name("odd")
    subprocess.run(["cp", "--archive", str(special), str(root)], check=True)
    deep = root.joinpath(*[f"component-{number:02}" for number in range(25)])
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    (root / ("n" * 255)).write_bytes(b"long")
    (root / "to-deep").symlink_to("/".join(["t" * 100] * 5))
    os.link(deep / "file", deep / ("h" * 200))
    with open(os.fsencode(root) + b"/caf\xe9 \xff", "wb") as file:
        file.write(b"latin-1")
    os.chown(root / "empty", 3_000_000_000, 4_000_000_000)
    os.utime(root / "empty", ns=(0, -1_500_000_000))
    os.utime(root / "tool", ns=(0, 12_345_678_901_123_456_789))
    os.setxattr(root / "same", "user.checksum", b"\x00=\n\xff")
    os.setxattr(root / "same", "user.empty", b"")
    os.setxattr(root / "folder", "user.folder", b"v" * 3000)
    os.setxattr(root / "folder", "trusted.secret", b"dropped")
    os.setxattr(root / "tool", "security.capability", CAPABILITY)
    return root


def gnu_tar(*words: str) -> Archiver:
    def pack(folder: Path, archive: Path) -> None:
        command = ["tar", "--create", "--file", str(archive), "--directory", str(folder), *words]
        subprocess.run([*command, "."], check=True)

    return pack


def bsdtar(*words: str) -> Archiver:
    def pack(folder: Path, archive: Path) -> None:
        command = ["bsdtar", "-c", "-f", str(archive), "-C", str(folder), *words, "."]
        subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})

    return pack


def python(kind: int) -> Archiver:
    def pack(folder: Path, archive: Path) -> None:
        with tarfile.open(archive, "w", format=kind, errors="surrogateescape") as writer:
            writer.add(folder, arcname=".")

    return pack


WITH_XATTRS = ("--xattrs", "--xattrs-include=*")
ARCHIVERS = [
    pytest.param("plain", gnu_tar("--format=v7"), id="gnu-tar-v7"),
    pytest.param("special", gnu_tar("--format=oldgnu"), id="gnu-tar-oldgnu"),
    pytest.param("special", gnu_tar("--format=ustar"), id="gnu-tar-ustar"),
    pytest.param("odd", gnu_tar("--format=gnu"), id="gnu-tar-gnu"),
    pytest.param("odd", gnu_tar("--format=gnu", "--blocking-factor=1"), id="gnu-tar-unblocked"),
    pytest.param("odd", gnu_tar("--format=pax", *WITH_XATTRS), id="gnu-tar-pax"),
    pytest.param(
        "odd",
        gnu_tar("--format=pax", "--pax-option=globexthdr.name=g,comment=c,gid=7"),
        id="gnu-tar-pax-global",
    ),
    pytest.param("special", bsdtar("--format=ustar"), id="bsdtar-ustar"),
    pytest.param("odd", bsdtar("--format=gnutar"), id="bsdtar-gnu"),
    pytest.param("odd", bsdtar("--format=pax", "--xattrs"), id="bsdtar-pax"),
    pytest.param("special", python(tarfile.USTAR_FORMAT), id="python-ustar"),
    pytest.param("odd", python(tarfile.GNU_FORMAT), id="python-gnu"),
    pytest.param("odd", python(tarfile.PAX_FORMAT), id="python-pax"),
]


@pytest.mark.parametrize(("folder", "pack"), ARCHIVERS)
def test_an_archive_says_what_an_independent_reader_says_of_it(
    folder: str, pack: Archiver, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pack(request.getfixturevalue(folder), tmp_path / "archive")
    payload = (tmp_path / "archive").read_bytes()
    ours = [_our_facts(entry, payload) for entry in entries_of(payload)]
    assert len(ours) == {"plain": 7, "special": 10, "odd": 40}[folder]
    assert ours == _their_facts(payload)


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(gnu_tar("--format=pax", *WITH_XATTRS), id="gnu-tar"),
        pytest.param(bsdtar("--format=pax", "--xattrs"), id="bsdtar"),
    ],
)
def test_xattrs_are_those_of_the_file_system_without_what_is_dropped(
    pack: Archiver, odd: Path, tmp_path: Path
) -> None:
    pack(odd, tmp_path / "archive")
    entries = entries_of((tmp_path / "archive").read_bytes())
    compared = 0
    for entry in entries:
        if entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY):
            expected = _xattrs(os.fsencode(odd) + b"/" + entry.path)
            assert dict(entry.xattrs) == expected
            compared += len(expected)
    assert compared == 4


def _our_facts(entry: Entry, payload: bytes) -> Facts:
    return Facts(
        path=entry.path,
        kind=entry.kind,
        mode=entry.mode,
        owner=(entry.uid, entry.gid),
        mtime=(entry.mtime_s, entry.mtime_ns),
        content=payload[entry.payload_offset :][: entry.size],
        target=entry.target,
        device=(entry.rdev_major, entry.rdev_minor),
    )


def _their_facts(payload: bytes) -> list[Facts]:
    with tarfile.open(fileobj=io.BytesIO(payload), errors="surrogateescape") as reader:
        return [_facts(info, payload) for info in reader]


def _facts(info: tarfile.TarInfo, payload: bytes) -> Facts:
    time = Decimal(info.pax_headers.get("mtime", info.mtime))
    seconds = int(time.to_integral_value(ROUND_FLOOR))
    target = b""
    if info.issym():
        target = _raw(info.linkname)
    elif info.islnk():
        target = os.path.normpath(_raw(info.linkname))
    return Facts(
        path=b"" if info.name == "." else os.path.normpath(_raw(info.name)),
        kind=KINDS[info.type],
        mode=info.mode & 0o7777,
        owner=(info.uid, info.gid),
        mtime=(seconds, int((time - seconds) * 10**9)),
        content=payload[info.offset_data :][: info.size] if info.isreg() else b"",
        target=target,
        device=(info.devmajor, info.devminor) if info.isdev() and not info.isfifo() else (0, 0),
    )


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = [name for name in os.listxattr(path) if name.startswith(KEPT)]
    return {os.fsencode(name): os.getxattr(path, name) for name in names}
