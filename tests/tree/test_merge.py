"""Folders, files and symlinks of several layers in one tree. Whiteouts and links: beside this."""

import stat

import pytest

from clipfs import errors
from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_DEPTH
from clipfs.tree.merge import merge
from clipfs.tree.node import MAX_SYMLINKS
from tests.support.entries import device, file, folder, link, opaque, symlink, whiteout
from tests.support.tree_views import View, view_of_merge


def shown(*layers: list[Entry]) -> View:
    return view_of_merge(merge(layers))


def test_no_layers_are_an_empty_root_of_0755() -> None:
    assert [(path, oct(facts.mode), facts.nlink) for path, facts in shown().items()] == [
        (b"", oct(stat.S_IFDIR | 0o755), 2)
    ]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        pytest.param([[file(b"d/x")], [file(b"d")]], {b"d"}, id="file-over-folder"),
        pytest.param([[file(b"d/x")], [symlink(b"d", b"e")]], {b"d"}, id="symlink-over-folder"),
        pytest.param([[file(b"d")], [folder(b"d")]], {b"d"}, id="folder-over-file"),
        pytest.param([[file(b"d")], [file(b"d/x")]], {b"d", b"d/x"}, id="implied-folder-over-file"),
        pytest.param([[file(b"d/x")], [folder(b"d")]], {b"d", b"d/x"}, id="folder-over-folder"),
        pytest.param([[symlink(b"d", b"e"), file(b"e/x")], [folder(b"d")]], {b"d", b"e", b"e/x"},
                     id="folder-over-symlink"),
        pytest.param([[symlink(b"d", b"e"), file(b"e")], [file(b"d", size=1)]], {b"d", b"e"},
                     id="file-over-symlink"),
        pytest.param([[file(b"d/x"), file(b"d")]], {b"d"}, id="in-one-layer-file-over-folder"),
        pytest.param([[file(b"d"), file(b"d/x")]], {b"d", b"d/x"}, id="in-one-layer-reverse"),
    ],
)  # fmt: skip
def test_an_entry_of_another_type_replaces_a_name_and_all_below_it(
    layers: list[list[Entry]], names: set[bytes]
) -> None:
    found = shown(*layers)
    assert set(found) - {b""} == names
    assert stat.S_ISDIR(found[b"d"].mode) == any(name.startswith(b"d/") for name in names) or (
        layers[-1] == [folder(b"d")]
    )


def test_a_folder_over_a_folder_changes_its_metadata_only() -> None:
    lower = [folder(b"d", 0o700, uid=1, mtime_s=1, xattrs=((b"user.a", b"1"),)), file(b"d/x")]
    found = shown(lower, [folder(b"d", 0o1777, gid=2, mtime_s=2, mtime_ns=3)])
    assert b"d/x" in found
    assert found[b"d"]._replace(group=b"", nlink=0, where=None) == (
        stat.S_IFDIR | 0o1777, 0, 2, 2 * 10**9 + 3, 0, 0, 0, b"", {}, None, b""
    )  # fmt: skip


def test_the_last_duplicate_in_a_layer_wins() -> None:
    twice = [file(b"a", size=1, offset=512), file(b"a", size=2, offset=1536, mode=0o4755)]
    assert shown(twice)[b"a"].where == (0, 1536)
    assert shown([folder(b"d", 0o700), file(b"d/x"), folder(b"d", 0o711)])[b"d"].mode & 0o777 == (
        0o711
    )


def test_missing_parents_are_0755_root_and_known_ones_stay_as_they_were() -> None:
    found = shown([folder(b"known", 0o711, uid=5)], [file(b"known/x"), file(b"new/er/x", uid=7)])
    assert found[b"new"] == found[b"new/er"]._replace(nlink=3, group=b"new")
    assert (oct(found[b"new/er"].mode), *found[b"new/er"][1:4]) == (oct(0o40755), 0, 0, 0)
    assert (oct(found[b"known"].mode), found[b"known"].uid) == (oct(0o40711), 5)


def test_a_folder_that_comes_after_its_children_sets_the_implied_one() -> None:
    assert shown([file(b"d/x"), folder(b"d", 0o711)])[b"d"].mode & 0o777 == 0o711


def test_the_root_entry_sets_the_roots_metadata() -> None:
    found = shown([file(b"a")], [folder(b"", 0o711, uid=3, gid=4, mtime_s=-5)])
    assert (found[b""].mode & 0o7777, *found[b""][1:4]) == (0o711, 3, 4, -5 * 10**9)
    assert set(found) == {b"", b"a"}
    for kind in set(EntryKind) - {EntryKind.DIRECTORY, EntryKind.HARDLINK}:
        with pytest.raises(errors.CorruptImage, match="root of the image is not a folder"):
            merge([[Entry(path=b"", kind=kind, mode=0o755)]])


@pytest.mark.parametrize(
    ("target", "lands"),
    [
        pytest.param(b"usr/lib", b"usr/lib/x", id="relative"),
        pytest.param(b"/usr/lib", b"usr/lib/x", id="absolute"),
        pytest.param(b"../../../usr/lib", b"usr/lib/x", id="clamped-to-the-root"),
        pytest.param(b"./usr//lib/.", b"usr/lib/x", id="dots"),
        pytest.param(b"usr/../new/lib", b"new/lib/x", id="to-what-is-not-there-yet"),
        pytest.param(b"usr/other", b"usr/lib/x", id="through-a-second-symlink"),
        pytest.param(b"/", b"x", id="to-the-root"),
        pytest.param(b"usr/f", b"usr/f/x", id="to-a-file"),
    ],
)
def test_a_parent_that_is_a_symlink_is_followed_inside_the_tree(
    target: bytes, lands: bytes
) -> None:
    lower = [file(b"usr/lib/old"), symlink(b"usr/other", b"/usr/lib"), file(b"usr/f")]
    found = shown([*lower, symlink(b"lib", target)], [file(b"lib/x", size=9)])
    assert found[lands].size == 9
    assert found[b"lib"].target == target


@pytest.mark.parametrize(
    "replacing", [folder(b"l/l"), symlink(b"l/l", b"d")], ids=["folder", "symlink"]
)
def test_an_entry_that_replaces_the_way_to_its_own_folder_holds_for_the_next(
    replacing: Entry,
) -> None:
    found = shown([folder(b"d"), symlink(b"l", b"."), replacing, file(b"l/x")])
    assert set(found) - {b""} == {
        b"d",
        b"l",
        b"l/x" if replacing.kind == EntryKind.DIRECTORY else b"d/x",
    }


def test_a_path_passes_40_symlinks_as_in_the_kernel_and_no_more() -> None:
    chain = [symlink(b"s%d" % n, b"s%d" % (n + 1)) for n in range(MAX_SYMLINKS)]
    assert b"s40/x" in shown([*chain, file(b"s0/x")])
    with pytest.raises(errors.CorruptImage, match="too many symlinks on the way to 's0'"):
        merge([[*chain, symlink(b"s40", b"end"), file(b"s0/x")]])
    with pytest.raises(errors.CorruptImage, match="too many symlinks on the way to 'a/b'"):
        merge([[symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/b/x")]])


def test_a_folder_is_as_deep_as_a_path_may_be_and_no_deeper_by_way_of_symlinks() -> None:
    deepest = b"/".join([b"d"] * MAX_DEPTH)
    assert len(shown([file(deepest)])) == MAX_DEPTH + 1
    half = b"/".join([b"d"] * (MAX_DEPTH // 2))
    assert len(shown([symlink(b"s", half), file(b"s/" + half)])) == MAX_DEPTH + 2
    with pytest.raises(errors.CorruptImage, match=r"'s/d/.* is more than 1024 folders deep"):
        merge([[symlink(b"s", half), file(b"s/d/" + half)]])


def test_a_symlink_cannot_bring_a_name_that_no_folder_can_hold() -> None:
    longest = b"n" * MAX_COMPONENT_BYTES
    assert longest + b"/x" in shown([symlink(b"s", longest), file(b"s/x")])
    with pytest.raises(errors.CorruptImage, match=r"a component .* is over 255 bytes"):
        merge([[symlink(b"s", longest + b"n"), file(b"s/x")]])
    assert set(shown([symlink(b"s", longest + b"n")])) == {b"", b"s"}


def test_devices_fifos_and_empty_files_are_entries_like_any_other() -> None:
    found = shown(
        [device(b"c", EntryKind.CHARACTER, 1, 3), device(b"b", EntryKind.BLOCK, 259, 70000)],
        [device(b"p", EntryKind.FIFO), file(b"empty"), link(b"p2", b"p")],
    )
    assert {path: oct(facts.mode) for path, facts in found.items() if path} == {
        b"c": "0o20600", b"b": "0o60600", b"p": "0o10600", b"p2": "0o10600", b"empty": "0o100644"
    }  # fmt: skip
    assert found[b"b"].rdev == (259 << 8) | (70000 & 0xFF) | (70000 & ~0xFF) << 12
    assert (found[b"p"].nlink, found[b"empty"].where) == (2, None)


def test_a_folder_has_two_links_and_one_for_each_folder_in_it() -> None:
    found = shown([folder(b"a/b"), folder(b"a/c"), file(b"a/f")], [whiteout(b"a/b")])
    assert {path: found[path].nlink for path in (b"", b"a", b"a/c")} == {b"": 3, b"a": 3, b"a/c": 2}


def test_a_lower_layer_again_on_top_shows_itself() -> None:
    layer = [folder(b"d"), file(b"d/x", size=1, offset=512), link(b"y", b"d/x")]
    alone, again = shown(layer), shown(layer, [opaque(b"")], layer)
    assert {path: facts._replace(where=None) for path, facts in alone.items()} == {
        path: facts._replace(where=None) for path, facts in again.items()
    }
    assert again[b"y"].where == (2, 512)
