"""Whiteouts: what a layer hides of the layers below it. OCI image specification, "Whiteouts"."""

import itertools

import pytest

from clipfs import errors
from clipfs.layer.index import Entry
from clipfs.tree.merge import merge
from tests.support.entries import file, folder, link, opaque, symlink, whiteout
from tests.support.tree_views import view_of_merge

LOWER = [
    folder(b"d", 0o711),
    file(b"d/one"),
    file(b"d/sub/two"),
    file(b"top"),
    symlink(b"to-d", b"d"),
]
LOWER_NAMES = {b"d", b"d/one", b"d/sub", b"d/sub/two", b"top", b"to-d"}


def names(*layers: list[Entry]) -> set[bytes]:
    return set(view_of_merge(merge(layers))) - {b""}


@pytest.mark.parametrize(
    ("upper", "hidden"),
    [
        pytest.param([whiteout(b"top")], {b"top"}, id="file"),
        pytest.param([whiteout(b"d")], {b"d", b"d/one", b"d/sub", b"d/sub/two"}, id="folder"),
        pytest.param([whiteout(b"d/sub/two")], {b"d/sub/two"}, id="last-file-of-a-folder"),
        pytest.param([whiteout(b"to-d")], {b"to-d"}, id="symlink-not-what-it-names"),
        pytest.param([whiteout(b"to-d/one")], {b"d/one"}, id="through-a-symlink"),
        pytest.param([whiteout(b"none")], set(), id="absent-name"),
        pytest.param([whiteout(b"none/x"), whiteout(b"top/x")], set(), id="absent-folder"),
        pytest.param([opaque(b"d")], {b"d/one", b"d/sub", b"d/sub/two"}, id="opaque"),
        pytest.param([opaque(b"to-d")], {b"d/one", b"d/sub", b"d/sub/two"}, id="opaque-symlink"),
        pytest.param([opaque(b"")], LOWER_NAMES, id="opaque-root"),
        pytest.param([opaque(b"top"), opaque(b"none")], set(), id="opaque-of-no-folder"),
        pytest.param([folder(b"d/.wh.one")], {b"d/one"}, id="by-name-alone-a-folder"),
        pytest.param([symlink(b".wh.top", b"d")], {b"top"}, id="by-name-alone-a-symlink"),
        pytest.param([link(b".wh.top", b"none")], {b"top"}, id="by-name-alone-a-hard-link"),
        pytest.param([file(b"d/.wh..wh.aufs"), folder(b".wh..wh.orph")], set(), id="aufs-own"),
    ],
)
def test_a_whiteout_hides_what_lower_layers_brought(upper: list[Entry], hidden: set[bytes]) -> None:
    assert names(LOWER, upper) == LOWER_NAMES - hidden


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_a_whiteout_spares_its_own_layer_wherever_it_stands(order: tuple[int, ...]) -> None:
    upper = [whiteout(b"top"), file(b"top"), opaque(b"d"), file(b"d/new")]
    found = view_of_merge(merge([LOWER, [upper[at] for at in order]]))
    assert set(found) == {b"", b"d", b"d/new", b"to-d", b"top"}
    assert found[b"d"].mode & 0o777 == 0o711


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_whiteouts_of_one_layer_do_not_see_each_other(order: tuple[int, ...]) -> None:
    upper = [whiteout(b"to-d"), whiteout(b"to-d/one"), opaque(b"to-d/sub")]
    hidden = {b"to-d", b"d/one", b"d/sub/two"}
    assert names(LOWER, [upper[at] for at in order]) == LOWER_NAMES - hidden


def test_a_whiteout_reaches_every_lower_layer_and_no_higher_one() -> None:
    assert names([file(b"a")], [file(b"a")], [whiteout(b"a")]) == set()
    assert names([file(b"a")], [whiteout(b"a")], [file(b"a")]) == {b"a"}
    assert names([whiteout(b"a"), file(b"a")]) == {b"a"}


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"d/.wh..", b"d/.wh..."])
def test_a_whiteout_that_names_no_entry_is_refused(name: bytes) -> None:
    with pytest.raises(errors.CorruptImage, match=r"whiteout '.*\.wh\.+' names no entry"):
        merge([LOWER, [file(name)]])


@pytest.mark.parametrize("order", [1, -1], ids=["folder-first", "whiteout-first"])
def test_a_folder_that_replaces_a_symlink_is_opaque_without_emptying_what_that_named(
    order: int,
) -> None:
    """overlayfs marks such a folder opaque, and so do layers that were made from its changes."""
    upper = [folder(b"to-d"), opaque(b"to-d"), whiteout(b"to-d/sub/two")]
    assert names(LOWER, [*upper[::order], file(b"to-d/new")]) == LOWER_NAMES | {b"to-d/new"}


def test_a_folder_that_replaces_a_loop_of_symlinks_may_be_opaque() -> None:
    loop = [symlink(b"loop", b"loop")]
    assert names(loop, [folder(b"loop"), opaque(b"loop"), file(b"loop/x")]) == {b"loop", b"loop/x"}
    assert names(loop, [whiteout(b"loop/x")]) == {b"loop"}


def test_what_aufs_keeps_at_the_root_is_not_shown_but_may_be_linked_to() -> None:
    kept = file(b".wh..wh.plnk/12.34", size=5)
    found = view_of_merge(merge([[kept, link(b"a", kept.path), link(b"b", kept.path)]]))
    assert set(found) == {b"", b"a", b"b"}
    assert (found[b"a"].size, found[b"a"].nlink, found[b"b"].group) == (5, 2, b"a")
