"""Tar layers to one tree: a test a row of the table of traps, on real mounts of both fronts.

The rows are those of the table in `docs/semantics.md`, and the layers are tars by hand,
so that each trap is in them. One image holds all that can stand beside each other; what refuses
an image has images of its own. Where unpackers agree, `umoci unpack` is asked too: the last layer
holds what it refuses, or does otherwise. One module, though long: the table is read in one
go, and most rows share that image.
"""

import gzip
import hashlib
import itertools
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support import images
from tests.support.artifacts import push_artifact
from tests.support.both_fronts import on_both_fronts, write_layout
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.raw_tar import END, base256, long_name, member, records
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.trees import compare

pytestmark = needs_fuse

CAPABILITY = struct.pack("<IIIII", 0x0200_0001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)  # acl(5): tag, rwx, id
    for tag, permissions, number in [
        (0x01, 6, 0xFFFF_FFFF), (0x02, 5, 1234), (0x04, 4, 0xFFFF_FFFF),
        (0x10, 5, 0xFFFF_FFFF), (0x20, 4, 0xFFFF_FFFF),
    ]
)  # fmt: skip
LONG = b"/".join([b"n" * 250] * 3)


def folder(name: bytes, **more: Any) -> bytes:
    return member(name, typeflag=b"5", **{"mode": 0o755, **more})


def link(name: bytes, target: bytes) -> bytes:
    return member(name, typeflag=b"1", link=target)


def symlink(name: bytes, target: bytes) -> bytes:
    return member(name, typeflag=b"2", link=target, mode=0o777)


def xattr(name: bytes, attributes: dict[bytes, bytes]) -> bytes:
    return records({b"SCHILY.xattr." + key: attributes[key] for key in attributes}) + member(name)


LOWER = b"".join([
    folder(b"./", mode=0o700), folder(b"hidden"), member(b"hidden/file", b"1"),
    member(b"kept", b"kept"),
    folder(b"opaque", mode=0o750), member(b"opaque/lower", b"1"), folder(b"opaque/sub"),
    member(b"opaque/sub/lower", b"1"),
    folder(b"link"), member(b"link/one", b"shared"), link(b"link/two", b"link/one"),
    link(b"link/gone", b"link/one"),
    member(b"was-a-file", b"1"), folder(b"was-a-folder"), member(b"was-a-folder/below", b"1"),
    folder(b"merged", mode=0o700), member(b"merged/stays", b"1"),
    member(b"twice", b"first"), member(b"twice", b"second"),
    folder(b"usr"), folder(b"usr/lib"), symlink(b"lib", b"usr/lib"),
    symlink(b"up", b"../../../usr"),
    folder(b"rooted"), member(b"./rooted//at", b"1"),
    member(b"/absolute", b"1"), member(b"usr/../normal", b"1"),
    folder(b"mine", mode=0o711, uid=5),
])  # fmt: skip

UPPER = b"".join([
    folder(b"hidden"), member(b"hidden/again", b"2"), member(b".wh.hidden"),
    member(b"opaque/upper", b"2"), member(b"opaque/.wh..wh..opq"),
    member(b"link/.wh.gone"), link(b"link/across", b"link/one"),
    folder(b"was-a-file"), member(b"was-a-file/inside", b"2"), member(b"was-a-folder", b"2"),
    folder(b"merged", mode=0o1777, mtime=1_500_000_000),
    member(b"lib/through", b"2"), member(b"up/clamped", b"2"), member(b"mine/new", b"2"),
    folder(b"hidden"),  # once more: umoci's whiteout changes its time
])  # fmt: skip

NAMES = b"".join([
    *(records({b"path": LONG[:size]}) + folder(b"short") for size in (250, 501, 752)),
    records({b"path": b"p" * 155}) + folder(b"short"),
    records({b"path": LONG + b"/pax"}) + member(b"short", b"pax"),
    long_name(LONG + b"/gnu") + member(b"short", b"gnu", magic=b"ustar  \0"),
    member(b"latin-\xe9\xff", b"bytes"), member(b"n" * 100, b"1", prefix=b"p" * 155),
])  # fmt: skip

MODES = b"".join(member(b"mode-%04o" % mode, mode=mode) for mode in (0o4755, 0o2711, 0o7777, 0))
MODES += folder(b"sticky", mode=0o1777)

XATTRS = b"".join([
    xattr(b"x-user", {b"user.note": b"kept\0as\nis"}),
    xattr(b"x-capability", {b"security.capability": CAPABILITY}),
    records({b"SCHILY.xattr.system.posix_acl_access": ACL}) + member(b"x-acl", mode=0o654),
])  # fmt: skip

DEVICES = b"".join([
    member(b"char", typeflag=b"3", devmajor=5, devminor=1),
    member(b"block", typeflag=b"4", devmajor=8, devminor=300),
    member(b"fifo", typeflag=b"6", mode=0o620),
])  # fmt: skip

TIMES = b"".join([
    records({b"mtime": b"1700000000.123456789"}) + member(b"t-nanoseconds"),
    records({b"mtime": b"-1.5"}) + member(b"t-negative"),
    member(b"t-base256", mtime=base256(1 << 33, 12)),
    member(b"t-base256-negative", mtime=base256(-2, 12)),
    member(b"t-zero", mtime=0), folder(b"./", mode=0o751, uid=7, gid=8, mtime=1_000_000_000),
])  # fmt: skip


AGREED = (LOWER + END, UPPER + END, NAMES + MODES + XATTRS + DEVICES + TIMES + END)

OURS = b"".join([
    xattr(b"x-empty", {b"user.empty": b""}),
    member(b"no/parents/here", b"1"), member(b"usr/.wh..wh.other", b"1"),
    link(b"early", b"late"), member(b"late", b"late"),
    member(b"overlay-whiteout", typeflag=b"3"),
    records({b"LIBARCHIVE.xattr.user.percent%25": b"AAEC"}) + member(b"x-libarchive"),
    xattr(b"x-dropped", {b"trusted.overlay.opaque": b"y", b"security.ima": b"1",
                         b"security.selinux": b"a:b:c", b"user.overlay": b"kept"}),
])  # fmt: skip


@pytest.fixture(scope="module")
def mounts(
    tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer
) -> Iterator[list[bytes]]:
    """The tops of the image on each front, with a slash at the end."""
    home = tmp_path_factory.mktemp("table")
    image = pushed(home, registry, *AGREED, OURS + END)
    with on_both_fronts(
        Node(home / "root", ["--plain-http", registry.address]), image, home
    ) as fronts:
        yield [os.fsencode(place) + b"/" for place in fronts.values()]


def pushed(home: Path, registry: RegistryServer, *layers: bytes) -> str:
    name = f"row-{hashlib.sha256(b''.join(layers)).hexdigest()[:12]}"
    return images.push(write_layout(home / name, layers), registry.address, f"{name}:1")


def refusal(node: Node, image: str) -> str:
    """Why there is no tree of the image."""
    done = node.run("index", image, "--root", str(node.root), *node.options, "--json", check=False)
    assert done.returncode == 1
    error: dict[str, str] = json.loads(done.stdout)["error"]
    assert error["code"] in ("corrupt_image", "unsupported_image")
    return error["message"]


def names(folder: bytes) -> set[bytes]:
    return set(os.listdir(folder))


def read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def mode_of(path: bytes) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_where_unpackers_agree_both_fronts_show_what_umoci_unpacks(
    node: Node, registry: RegistryServer, tmp_path: Path, say: Say
) -> None:
    layout = write_layout(tmp_path / "agreed", AGREED)
    reference = images.unpack(layout, tmp_path / "bundle")
    image = images.push(layout, registry.address, "agreed:1")
    with on_both_fronts(node, image, tmp_path) as fronts:
        for front, place in fronts.items():
            result = compare(str(reference), str(place))
            say(f"{front}: {result}")
            assert not result.differences, str(result)


# ---- whiteouts


def test_a_whiteout_hides_lower_layers_only_in_any_order(mounts: list[bytes]) -> None:
    for top in mounts:
        assert names(top + b"hidden") == {b"again"}
        assert read(top + b"kept") == b"kept"


def test_an_opaque_folder_hides_all_that_is_below_and_nothing_of_its_own(
    mounts: list[bytes],
) -> None:
    for top in mounts:
        assert names(top + b"opaque") == {b"upper"}
        assert mode_of(top + b"opaque") == 0o750


def test_an_opaque_root_hides_every_lower_layer(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = pushed(tmp_path, registry, LOWER + END, member(b"new") + member(b".wh..wh..opq") + END)
    with on_both_fronts(node, image, tmp_path) as fronts:
        assert [os.listdir(place) for place in fronts.values()] == [["new"]] * 2


@pytest.mark.parametrize("name", [b".wh..", b"usr/.wh...", b".wh."], ids=ascii)
def test_a_whiteout_of_no_name_is_refused(
    name: bytes, node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = pushed(tmp_path, registry, LOWER + END, member(name) + END)
    assert "names no entry" in refusal(node, image)


def test_other_whiteout_metadata_is_ignored(mounts: list[bytes]) -> None:
    for top in mounts:
        assert names(top + b"usr") == {b"lib", b"clamped"}


# ---- hard links


def test_hard_links_share_an_inode_across_layers_and_count_after_merging(
    mounts: list[bytes],
) -> None:
    for top in mounts:
        found = [os.stat(top + b"link/" + name) for name in (b"one", b"two", b"across")]
        assert {(one.st_ino, one.st_nlink) for one in found} == {(found[0].st_ino, 3)}
        assert read(top + b"link/across") == b"shared"


def test_a_hard_link_survives_a_whiteout_of_one_name(mounts: list[bytes]) -> None:
    for top in mounts:
        assert names(top + b"link") == {b"one", b"two", b"across"}


def test_a_hard_links_target_may_come_later_in_its_layer(mounts: list[bytes]) -> None:
    for top in mounts:
        assert os.path.samefile(top + b"early", top + b"late")
        assert read(top + b"early") == b"late"


def test_a_hard_link_whose_target_never_comes_is_refused(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = pushed(tmp_path, registry, LOWER + link(b"l", b"never") + END)
    said = refusal(node, image)
    assert said.startswith(f"{image}: its layers make no tree: hard link ")
    assert "points at 'never', which is not in the image" in said


# ---- types, parents, names


def test_a_file_and_a_folder_replace_each_other_with_all_below(mounts: list[bytes]) -> None:
    for top in mounts:
        assert names(top + b"was-a-file") == {b"inside"}
        assert read(top + b"was-a-folder") == b"2"


def test_a_folder_over_a_folder_merges_metadata_only(mounts: list[bytes]) -> None:
    for top in mounts:
        assert names(top + b"merged") == {b"stays"}
        found = os.stat(top + b"merged")
        assert (mode_of(top + b"merged"), found.st_mtime) == (0o1777, 1_500_000_000)


def test_the_last_duplicate_in_a_layer_wins(mounts: list[bytes]) -> None:
    for top in mounts:
        assert read(top + b"twice") == b"second"


def test_a_parent_that_is_a_symlink_is_followed_clamped_to_the_root(mounts: list[bytes]) -> None:
    for top in mounts:
        assert os.readlink(top + b"lib") == b"usr/lib"
        assert read(top + b"usr/lib/through") == b"2"
        assert read(top + b"usr/clamped") == b"2"


def test_missing_parents_are_0755_roots_and_known_ones_stay(mounts: list[bytes]) -> None:
    for top in mounts:
        for path in (b"no", b"no/parents"):
            found = os.stat(top + path)
            assert (mode_of(top + path), found.st_uid, found.st_mtime) == (0o755, 0, 0)
        assert (mode_of(top + b"mine"), os.stat(top + b"mine").st_uid) == (0o711, 5)


def test_names_are_normalised(mounts: list[bytes]) -> None:
    for top in mounts:
        for path in (b"rooted/at", b"absolute", b"normal"):
            assert read(top + path) == b"1"


def test_the_root_entry_sets_the_roots_metadata(mounts: list[bytes]) -> None:
    for top in mounts:
        found = os.stat(top)
        facts = (mode_of(top), found.st_uid, found.st_gid, found.st_mtime)
        assert facts == (0o751, 7, 8, 1_000_000_000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(b"a/../../b", "leaves the root", id="out-of-the-root"),
        pytest.param(b"a\0b", "a NUL in the name", id="nul"),
        pytest.param(b"n" * 256, "over 255 bytes", id="component"),
    ],
)
def test_a_name_that_no_tree_can_hold_is_refused(
    name: bytes, words: str, node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = pushed(tmp_path, registry, records({b"path": name}) + member() + END)
    assert words in refusal(node, image)


def test_names_are_bytes_and_as_long_as_pax_and_gnu_say(mounts: list[bytes]) -> None:
    for top in mounts:
        assert read(top + LONG + b"/pax") == b"pax"
        assert read(top + LONG + b"/gnu") == b"gnu"
        assert read(top + b"latin-\xe9\xff") == b"bytes"
        assert read(top + b"p" * 155 + b"/" + b"n" * 100) == b"1"


# ---- metadata


def test_setuid_setgid_and_sticky_are_kept_on_a_mount_without_them(mounts: list[bytes]) -> None:
    for top in mounts:
        for mode in (0o4755, 0o2711, 0o7777, 0):
            assert mode_of(top + b"mode-%04o" % mode) == mode
        assert mode_of(top + b"sticky") == 0o1777
        flags = os.statvfs(top).f_flag
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV


def test_xattrs_of_users_capabilities_and_acls_are_kept_byte_for_byte(mounts: list[bytes]) -> None:
    kept = {
        (b"x-user", "user.note"): b"kept\0as\nis",
        (b"x-empty", "user.empty"): b"",
        (b"x-libarchive", "user.percent%"): b"\0\1\2",
        (b"x-capability", "security.capability"): CAPABILITY,
        (b"x-acl", "system.posix_acl_access"): ACL,
    }
    for top, ((path, name), value) in itertools.product(mounts, kept.items()):
        assert os.getxattr(top + path, name) == value


def test_every_other_xattr_is_dropped(mounts: list[bytes]) -> None:
    for top in mounts:
        assert os.listxattr(top + b"x-dropped") == ["user.overlay"]


def test_devices_and_fifos_are_shown_and_a_0_0_device_is_dropped(mounts: list[bytes]) -> None:
    for top in mounts:
        character, block = os.stat(top + b"char"), os.stat(top + b"block")
        assert stat.S_ISCHR(character.st_mode)
        assert stat.S_ISBLK(block.st_mode)
        assert stat.S_ISFIFO(os.stat(top + b"fifo").st_mode)
        assert (character.st_rdev, block.st_rdev) == (os.makedev(5, 1), os.makedev(8, 300))
        assert not os.path.lexists(top + b"overlay-whiteout")


def test_times_have_nanoseconds_and_may_be_negative_or_far(mounts: list[bytes]) -> None:
    times = {
        b"t-nanoseconds": 1_700_000_000_123_456_789,
        b"t-negative": -1_500_000_000,
        b"t-base256": (1 << 33) * 10**9,
        b"t-base256-negative": -2 * 10**9,
        b"t-zero": 0,
    }
    for top in mounts:
        assert {name: os.stat(top + name).st_mtime_ns for name in times} == times


def test_the_index_is_the_same_bytes_on_every_node(
    registry: RegistryServer, tmp_path: Path
) -> None:
    """Never "now", nor anything else of the node."""
    image = pushed(tmp_path, registry, *AGREED, OURS + END)
    found = []
    for name in ("a", "b"):
        Node(tmp_path / name, ["--plain-http", registry.address]).json("index", image)
        (index,) = (tmp_path / name / "index").glob("*.erofs")
        found.append(index.read_bytes())
    assert found[0] == found[1]


# ---- streams

FILE = member(b"file", b"content")
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
TAIL = END + b"bytes past the two zero blocks".ljust(512) + bytes(512 * 20)


def test_bytes_past_the_end_mark_belong_to_the_diff_id(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = pushed(tmp_path, registry, FILE + TAIL)
    with on_both_fronts(node, image, tmp_path) as fronts:
        for place in fronts.values():
            assert (place / "file").read_bytes() == b"content"
    (payload,) = (node.root / "cache").iterdir()
    assert payload.read_bytes() == FILE + TAIL


def gzip_with_all_flags(data: bytes) -> bytes:
    """FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT (RFC 1952, 2.3.1)."""
    whole = gzip.compress(data, mtime=0)
    head = whole[:3] + b"\x1f" + whole[4:10] + b"\x04\x00ab\x00\x00" + b"name\0" + b"comment\0"
    crc = struct.pack("<I", zlib.crc32(head))[:2]
    return head + crc + whole[10:]


def skippable(data: bytes) -> bytes:
    """A frame that a reader passes over (RFC 8878, 3.1.2)."""
    return struct.pack("<II", 0x184D_2A50, len(data)) + data


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


WHOLE = FILE + END
BLOBS = {
    "gzip-members": (gzip.compress(WHOLE[:700]) + gzip.compress(WHOLE[700:]), GZIP),
    "gzip-flags": (gzip_with_all_flags(WHOLE), GZIP),
    "gzip-trailing-garbage": (gzip.compress(WHOLE) + b"garbage", GZIP),
    "gzip-wrong-isize-of-an-earlier-member": (gzip.compress(b"") + gzip.compress(WHOLE), GZIP),
    "zstd-frames": (zstd(WHOLE[:700]) + zstd(WHOLE[700:]), ZSTD),
    "zstd-skippable": (skippable(b"toc") + zstd(WHOLE) + skippable(b"more"), ZSTD),
}


@pytest.mark.parametrize(("blob", "media_type"), BLOBS.values(), ids=BLOBS)
def test_a_compressed_stream_may_be_all_that_its_format_allows(
    blob: bytes, media_type: str, node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    image = push_artifact(registry.address, "stream:1", [(blob, media_type, {})])
    with on_both_fronts(node, image, tmp_path) as fronts:
        for place in fronts.values():
            assert (place / "file").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("blob", "media_type"),
    [
        pytest.param(gzip.compress(WHOLE)[:-9], GZIP, id="gzip"),
        pytest.param(zstd(WHOLE)[:-1], ZSTD, id="zstd"),
        pytest.param(zstd(WHOLE)[:9], ZSTD, id="zstd-in-its-first-frame"),
        pytest.param(gzip.compress(WHOLE)[:-4] + b"\xff\xff\xff\xff", GZIP, id="isize"),
    ],
)
def test_a_truncated_or_lying_stream_is_refused(
    blob: bytes, media_type: str, node: Node, registry: RegistryServer
) -> None:
    image = push_artifact(registry.address, "cut:1", [(blob, media_type, {})])
    assert "layer sha256:" in refusal(node, image)


# ---- bombs: `test_hostile_images.py` (ratio, entries, depth, xattrs); header records here


def test_header_records_are_bounded(node: Node, registry: RegistryServer, tmp_path: Path) -> None:
    image = pushed(tmp_path, registry, records({b"comment": bytes(1 << 20)}) + FILE + END)
    assert "over 1048576 bytes of header records" in refusal(node, image)


# ---- config; media types: `test_image_set.py`


def changed_image(
    home: Path, registry: RegistryServer, change: Any, *, config: Any = lambda _: None
) -> str:
    """FILE's image, its manifest and config changed, pushed as it then is."""
    layout = write_layout(home, [WHOLE])
    blobs = layout / "blobs/sha256"
    index = json.loads((layout / "index.json").read_text())
    entry = index["manifests"][0]
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    described = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    config(described)
    manifest["config"] |= put(blobs, described)
    change(manifest)
    entry |= put(blobs, manifest)
    entry["mediaType"] = manifest["mediaType"]
    (layout / "index.json").write_text(json.dumps(index))
    return images.push(layout, registry.address, f"changed-{entry['digest'][7:19]}:1")


def put(blobs: Path, document: object) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def test_history_may_be_of_another_length_than_the_layers(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    def longer(config: Any) -> None:
        config["history"] += [{"empty_layer": True}] * 3

    image = changed_image(tmp_path, registry, lambda _: None, config=longer)
    assert node.json("index", image)["entries"] == 1


def test_as_many_diff_ids_as_layers_are_wanted(
    node: Node, registry: RegistryServer, tmp_path: Path
) -> None:
    def fewer(config: Any) -> None:
        config["rootfs"]["diff_ids"].append("sha256:" + "0" * 64)

    image = changed_image(tmp_path, registry, lambda _: None, config=fewer)
    assert "1 layers, the config 2 diff_ids" in refusal(node, image)
