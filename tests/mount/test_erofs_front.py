"""The EROFS front: the kernel alone shows the image index over the payload files as they are."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.mount import syscalls
from clipfs.mount.front import erofs
from clipfs.mount.front.erofs import PayloadFile
from clipfs.mount.mountinfo import mounts_at, read_mounts
from tests.mount.idmap import SHIFT, idmapped
from tests.mount.served import Served
from tests.support.entries import file
from tests.support.machine import needs_fuse
from tests.support.tree_views import view_of_mount
from tests.support.trees import compare
from tests.tree.torture import MANY, SIZES, image_over, torture

pytestmark = needs_fuse

LAYERS_OVER_A_PAGE = 300
"""mount(2) takes its options as one page: 300 devices would not fit into it."""


@contextmanager
def shown(image: bytes, payloads: Sequence[bytes], home: Path) -> Iterator[Path]:
    """image over payload files of just these bytes, at a mount point."""
    home.mkdir(exist_ok=True)
    (home / "index").write_bytes(image)
    (home / "mount").mkdir()
    files = []
    for number, payload in enumerate(payloads):
        path = home / f"payload-{number}"
        path.write_bytes(payload)
        files.append(PayloadFile(path=path, payload_bytes=len(payload)))
    with erofs.image_tree(home / "index", files, scratch=home) as tree:
        syscalls.attach(tree, home / "mount")
    try:
        yield home / "mount"
        assert [(home / f"payload-{n}").read_bytes() for n in range(len(files))] == [*payloads]
    finally:
        syscalls.detach(home / "mount")


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The torture image, whose last payload is no multiple of a block."""
    made = torture()
    assert len(made.payloads[-1]) % 512
    with shown(made.image(), made.payloads, tmp_path_factory.mktemp("erofs")) as mount:
        yield mount


def test_both_fronts_show_the_same_tree_with_the_same_inode_numbers(
    served: Served, mounted: Path
) -> None:
    result = compare(str(served.mount), str(mounted))
    assert not result.differences, str(result)
    assert result.entries > MANY
    assert result.bytes > sum(SIZES)
    assert view_of_mount(served.mount) == view_of_mount(mounted)
    numbers = {
        path: (os.lstat(path).st_ino, os.lstat(served.mount / path.relative_to(mounted)).st_ino)
        for path in [mounted, *mounted.rglob("*")]
    }
    assert [path for path, (one, other) in numbers.items() if one != other] == []


@pytest.mark.parametrize("size", [1, 511, 512, 513, 4095, 4097, (1 << 20) + 77])
def test_a_file_that_ends_with_its_payload_is_read_to_its_last_byte(
    size: int, tmp_path: Path
) -> None:
    payload = os.urandom(size)
    image = image_over([[file(b"all", size=size)]], [size])
    with shown(image, [payload], tmp_path / "home") as mount:
        assert (mount / "all").read_bytes() == payload
        with (mount / "all").open("rb") as opened:
            opened.seek(size - 1)
            assert opened.read() == payload[-1:]


def test_an_empty_payload_is_a_device_too(tmp_path: Path) -> None:
    image = image_over([[file(b"none")], [file(b"some", size=512)]], [0, 512])
    with shown(image, [b"", b"x" * 512], tmp_path / "home") as mount:
        assert sorted(os.listdir(mount)) == ["none", "some"]
        assert (mount / "some").read_bytes() == b"x" * 512


def test_an_image_without_layers_is_an_empty_folder(tmp_path: Path) -> None:
    with shown(image_over([], []), [], tmp_path / "home") as mount:
        assert os.listdir(mount) == []


def test_an_image_may_have_more_layers_than_a_page_can_name(tmp_path: Path) -> None:
    layers = [[file(b"%d" % n, size=512)] for n in range(LAYERS_OVER_A_PAGE)]
    payloads = [(b"%d" % n).ljust(512) for n in range(LAYERS_OVER_A_PAGE)]
    with shown(image_over(layers, [512] * len(layers)), payloads, tmp_path / "home") as mount:
        assert (mount / "0").read_bytes() == payloads[0]
        assert (mount / "299").read_bytes() == payloads[-1]


@pytest.mark.parametrize("name", ["a,b", "a\\b", "a=b", "a b"])
def test_a_path_may_hold_what_mount_options_are_written_with(name: str, tmp_path: Path) -> None:
    image = image_over([[file(b"x", size=512)]], [512])
    with shown(image, [b"x" * 512], tmp_path / name) as mount:
        assert (mount / "x").read_bytes() == b"x" * 512


def test_the_mount_is_read_only_without_devices_and_setuid(mounted: Path) -> None:
    (mount,) = mounts_at(mounted)
    assert {"ro", "nosuid", "nodev"} <= set(mount.options.split(","))
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "new").touch()


def test_it_is_mounted_before_it_is_anywhere(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(image_over([[file(b"x", size=512)]], [512]))
    (tmp_path / "payload").write_bytes(b"x" * 512)
    payload = PayloadFile(path=tmp_path / "payload", payload_bytes=512)
    with erofs.image_tree(tmp_path / "index", [payload], scratch=tmp_path) as tree:
        assert erofs.device_of(tree) not in {mount.device for mount in read_mounts()}
        (tmp_path / "mount").mkdir()
        syscalls.attach(tree, tmp_path / "mount")
        (mount,) = mounts_at(tmp_path / "mount")
        assert mount.device == erofs.device_of(tree)
        assert mount.source == str(tmp_path / "index")
    syscalls.detach(tmp_path / "mount")


def test_a_mount_goes_on_when_its_files_lose_their_names(tmp_path: Path) -> None:
    payload = os.urandom(1 << 20)
    image = image_over([[file(b"x", size=len(payload))]], [len(payload)])
    (tmp_path / "index").write_bytes(image)
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "mount").mkdir()
    one = PayloadFile(path=tmp_path / "payload", payload_bytes=len(payload))
    with erofs.image_tree(tmp_path / "index", [one], scratch=tmp_path) as tree:
        syscalls.attach(tree, tmp_path / "mount")
    try:
        (tmp_path / "payload").unlink()
        (tmp_path / "index").unlink()
        assert (tmp_path / "mount/x").read_bytes() == payload
    finally:
        syscalls.detach(tmp_path / "mount")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "No such file", id="absent"),
        pytest.param(b"x" * 511, "has 511 bytes, not 512", id="short"),
        pytest.param(b"x" * 513, "has 513 bytes, not 512", id="long"),
    ],
)
def test_a_payload_that_is_not_whole_is_not_mounted(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "index").write_bytes(image_over([[file(b"x", size=512)]], [512]))
    if content is not None:
        (tmp_path / "payload").write_bytes(content)
    payload = PayloadFile(path=tmp_path / "payload", payload_bytes=512)
    with (
        pytest.raises(errors.NodeFault, match=said),
        erofs.image_tree(tmp_path / "index", [payload], scratch=tmp_path),
    ):
        pytest.fail("it was mounted")


def test_the_kernels_refusal_is_a_node_fault_that_names_the_step(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(bytes(4096))
    with (
        pytest.raises(errors.NodeFault, match="mount erofs: create: Invalid argument"),
        erofs.image_tree(tmp_path / "index", [], scratch=tmp_path),
    ):
        pytest.fail("it was mounted")


def test_the_probe_says_whether_images_in_a_folder_can_be_shown(tmp_path: Path) -> None:
    erofs.probe(tmp_path)
    (tmp_path / "memory").mkdir()
    syscalls.mount("tmpfs", tmp_path / "memory", "tmpfs", 0, "")
    try:
        with pytest.raises(errors.NodeFault, match="Block device required"):
            erofs.probe(tmp_path / "memory")
        assert os.listdir(tmp_path / "memory") == []
    finally:
        syscalls.detach(tmp_path / "memory")
    assert [mount for mount in read_mounts() if str(tmp_path) in f"{mount}"] == []
    assert os.listdir(tmp_path) == ["memory"]


def test_the_kernels_mount_can_be_idmapped_too(mounted: Path, tmp_path: Path) -> None:
    with idmapped(mounted, tmp_path):
        assert (tmp_path / "sizes/1").stat().st_uid == SHIFT
        assert (tmp_path / "owner-65534").stat().st_uid == 65_534 + SHIFT
        assert (tmp_path / "sizes/1").read_bytes() == (mounted / "sizes/1").read_bytes()
