"""Whatever tree is merged, the reader gives it back, and the image is the same every time."""

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.index import Entry, EntryKind
from clipfs.tree.merge import merge
from clipfs.tree.reader import ImageIndex
from clipfs.tree.superblock import MAX_DEVICES
from clipfs.tree.writer import write_image
from tests.support.entries import device, devices_of, file, folder, image_of, link, symlink
from tests.support.tree_views import view_of_index, view_of_merge
from tests.tree.torture import torture

PAYLOAD_BYTES = 1 << 40
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
PATHS = st.lists(NAMES | st.sampled_from([b"a", b"b"]), min_size=1, max_size=3).map(b"/".join)
XATTRS = st.dictionaries(
    st.binary(max_size=250).map(lambda end: b"user." + end)
    | st.sampled_from([b"security.capability", b"system.posix_acl_access"]),
    st.binary(max_size=3000),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))
FACTS = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, (1 << 32) - 1),
        "gid": st.integers(0, (1 << 32) - 1),
        "mtime_s": st.integers(-(1 << 63), (1 << 63) - 1),
        "mtime_ns": st.integers(0, 10**9 - 1),
        "xattrs": XATTRS,
    }
)


def entry(path: bytes, kind: EntryKind, facts: dict[str, object], **more: object) -> Entry:
    return Entry(path=path, kind=kind, **facts, **more)  # type: ignore[arg-type] # by FACTS


FILES = st.builds(
    lambda path, facts, block, size: entry(
        path, EntryKind.FILE, facts, payload_offset=block * 512 if size else 0, size=size
    ),
    PATHS,
    FACTS,
    st.integers(0, 1 << 30),
    st.sampled_from([0, 1, 512, 1 << 39]) | st.integers(0, 1 << 39),
)
OTHERS = st.one_of(
    st.builds(lambda path, facts: entry(path, EntryKind.DIRECTORY, facts), PATHS, FACTS),
    st.builds(
        lambda path, facts, target: entry(path, EntryKind.SYMLINK, facts, target=target),
        PATHS,
        FACTS,
        st.binary(min_size=1, max_size=4095).filter(lambda target: b"\0" not in target),
    ),
    st.builds(
        lambda path, facts, kind, major, minor: entry(
            path, kind, facts, rdev_major=major, rdev_minor=minor
        ),
        PATHS,
        FACTS,
        st.sampled_from([EntryKind.CHARACTER, EntryKind.BLOCK]),
        st.integers(0, (1 << 12) - 1),
        st.integers(0, (1 << 20) - 1),
    ),
    st.builds(lambda path, facts: entry(path, EntryKind.FIFO, facts), PATHS, FACTS),
)
LAYERS = st.lists(st.lists(FILES | OTHERS, max_size=12), max_size=3)


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_the_reader_gives_back_whatever_tree_was_merged(layers: list[list[Entry]]) -> None:
    try:
        root = merge(layers)
    except errors.CorruptImage:  # say, a loop of symlinks: the merge's affair
        return
    devices = devices_of(len(layers), PAYLOAD_BYTES)
    index = ImageIndex(bytes(write_image(root, devices)))
    assert view_of_index(index) == view_of_merge(root)
    assert index.layer_digests == tuple(one.digest for one in devices)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param([], id="nothing"),
        pytest.param([file(b"d/%05d" % number) for number in range(10_000)], id="10000-names"),
        pytest.param([file(b"%03d" % n + b"n" * 252) for n in range(40)], id="longest-names"),
        pytest.param([folder(b"/".join([b"d"] * 1000))], id="1000-deep"),
        pytest.param([symlink(b"s%d" % n, b"t" * n) for n in range(1, 4096)], id="every-target"),
        pytest.param([symlink(b"s", b"t" * 300, xattrs=((b"user.a", b"v" * n),))
                      for n in (1, 300, 60_000)], id="symlinks-with-xattrs"),
        pytest.param([file(b"f", xattrs=((b"user.a", b"v" * 65_530),))], id="largest-xattr"),
        pytest.param([device(b"c", EntryKind.CHARACTER, 4095, 0xFFFFF)], id="largest-device"),
    ],
)  # fmt: skip
def test_what_is_large_or_empty_comes_back(layer: list[Entry]) -> None:
    assert view_of_index(ImageIndex(image_of(layer))) == view_of_merge(merge([layer]))


def test_more_links_than_16_bits_count_are_counted() -> None:
    index = ImageIndex(image_of([file(b"f"), *(link(b"l%d" % n, b"f") for n in range(66_000))]))
    nid = index.lookup(index.root, b"l65999")
    assert nid is not None
    assert nid == index.lookup(index.root, b"f")
    assert index.inode(nid).nlink == 66_001


def test_listing_can_go_on_after_any_entry() -> None:
    index = ImageIndex(image_of([file(b"d/%d" % number) for number in range(300)]))
    nid = index.lookup(index.root, b"d")
    assert nid is not None
    every = list(index.list(nid))
    for number, (position, _) in enumerate(every):
        assert list(index.list(nid, position)) == every[number + 1 :]


def test_names_that_are_not_there_are_not_found() -> None:
    names = [b"d/%d" % number for number in range(0, 3000, 2)]
    index = ImageIndex(image_of([file(name) for name in names]))
    nid = index.lookup(index.root, b"d")
    assert nid is not None
    missing = [b"%d" % number for number in range(1, 3000, 2)] + [b"", b"\0", b"\xff" * 255]
    assert [name for name in missing if index.lookup(nid, name) is not None] == []


def test_totals_count_names_and_each_inodes_bytes_once() -> None:
    layer = [file(b"a", size=700, offset=512), link(b"d/b", b"a"), symlink(b"s", b"four")]
    index = ImageIndex(image_of(layer))
    assert (index.entry_count, index.total_bytes) == (4, 700)


def test_the_roots_inode_is_number_1_as_fuse_has_it() -> None:
    assert ImageIndex(image_of([file(b"a")])).root == 1


def test_more_layers_than_the_format_can_number_are_refused() -> None:
    with pytest.raises(errors.UnsupportedImage, match="65536 layers"):
        write_image(merge([]), devices_of(MAX_DEVICES + 1))
    assert ImageIndex(bytes(write_image(merge([]), devices_of(MAX_DEVICES)))).entry_count == 0


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        pytest.param(file(b"a", xattrs=((b"other.x", b""),)), "no place", id="xattr-namespace"),
        pytest.param(
            file(b"a", xattrs=tuple((b"user.%d" % n, b"v" * 60_000) for n in range(5))),
            "fits no image",
            id="xattrs-over-16-bits",
        ),
        pytest.param(
            device(b"a", EntryKind.BLOCK, (1 << 32) - 1, (1 << 32) - 1),
            "fits no image",
            id="device-number",
        ),
    ],
)
def test_what_the_format_cannot_say_is_corrupt_not_another_error(entry: Entry, reason: str) -> None:
    """Found by tests.fuzz: no tar makes them, a wrong layer index may."""
    with pytest.raises(errors.CorruptImage, match=reason):
        image_of([entry])


SHOWN = """
import hashlib
from tests.tree.torture import torture
print(hashlib.sha256(torture().image()).hexdigest())
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_image_is_the_same_bytes_in_every_process(seed: str) -> None:
    elsewhere = subprocess.run(
        [sys.executable, "-c", SHOWN],
        env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"X{seed}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert elsewhere.stdout.strip() == hashlib.sha256(torture().image()).hexdigest()
