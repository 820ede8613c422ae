"""Hard links: which inode a name gets, across layers and before its target came."""

import random
import time

import pytest

from clipfs import errors
from clipfs.layer.index import Entry
from clipfs.tree.merge import merge
from tests.support.entries import file, folder, link, opaque, symlink, whiteout
from tests.support.tree_views import View, view_of_merge


def shown(*layers: list[Entry]) -> View:
    return view_of_merge(merge(layers))


def test_hard_links_share_inode_bytes_and_count() -> None:
    found = shown([file(b"b", size=7, offset=512, mtime_s=9), link(b"a", b"b"), link(b"d/c", b"b")])
    assert found[b"a"] == found[b"b"] == found[b"d/c"]
    assert (found[b"a"].nlink, found[b"a"].mtime_ns, found[b"a"].where) == (3, 9 * 10**9, (0, 512))
    assert found[b"b"].group == b"a"


def test_a_link_across_layers_joins_the_lower_inode_and_its_layer() -> None:
    found = shown([file(b"a", size=1, offset=512)], [], [link(b"b", b"a")])
    assert found[b"b"] == found[b"a"]
    assert (found[b"a"].nlink, found[b"a"].where) == (2, (0, 512))


def test_an_inode_survives_the_whiteout_of_one_of_its_names() -> None:
    lower = [file(b"a", size=1, offset=512), link(b"b", b"a"), link(b"d/c", b"a")]
    found = shown(lower, [whiteout(b"a")], [opaque(b"d")])
    assert set(found) == {b"", b"b", b"d"}
    assert (found[b"b"].nlink, found[b"b"].where) == (1, (0, 512))


def test_a_name_that_is_written_again_leaves_the_other_names_as_they_were() -> None:
    found = shown([file(b"a", size=1), link(b"b", b"a")], [file(b"a", size=2)])
    assert [(found[n].size, found[n].nlink, found[n].group) for n in (b"a", b"b")] == [
        (2, 1, b"a"),
        (1, 1, b"b"),
    ]


@pytest.mark.parametrize(
    ("layers", "path", "size"),
    [
        pytest.param([[file(b"t", size=1)], [link(b"a", b"t"), file(b"t", size=2)]], b"a", 1,
                     id="a-lower-target-before-a-later-one"),
        pytest.param([[file(b"t", size=1), link(b"a", b"t"), file(b"t", size=2)]], b"a", 1,
                     id="an-earlier-target-before-a-later-one"),
        pytest.param([[link(b"a", b"t"), file(b"t", size=2)]], b"a", 2, id="later"),
        pytest.param([[file(b"t", size=1)],
                      [whiteout(b"t"), link(b"a", b"t"), file(b"t", size=2)]], b"a", 2,
                     id="a-later-entry-comes-before-a-hidden-lower-one"),
        pytest.param([[file(b"t", size=1)], [link(b"a", b"t"), whiteout(b"t")]], b"a", 1,
                     id="a-lower-target-that-is-hidden-afterwards"),
        pytest.param([[file(b"t", size=1)], [whiteout(b"t"), link(b"a", b"t")]], b"a", 1,
                     id="a-lower-target-that-is-hidden-before"),
        pytest.param([[link(b"a", b"b"), link(b"b", b"c"), link(b"c", b"t"), file(b"t", size=2)]],
                     b"a", 2, id="later-through-later-links"),
        pytest.param([[link(b"a", b"d/t"), symlink(b"d", b"/f/../f"), file(b"f/t", size=2)]],
                     b"a", 2, id="later-through-a-symlink"),
        pytest.param([[link(b"a", b"t"), file(b"a", size=1), file(b"t", size=2)]], b"a", 1,
                     id="later-but-the-name-is-written-again"),
        pytest.param([[link(b"a/b", b"t"), file(b"a", size=1), file(b"t", size=2)]], b"a", 1,
                     id="later-but-its-folder-is-replaced"),
        pytest.param([[file(b"a", size=1)], [link(b"a", b"t"), link(b"b", b"a"), file(b"t", size=2)]
                      ], b"b", 2, id="a-waiting-link-hides-the-lower-file-of-its-name"),
    ],
)  # fmt: skip
def test_a_link_resolves_at_its_place_or_else_when_its_layer_ends(
    layers: list[list[Entry]], path: bytes, size: int
) -> None:
    assert shown(*layers)[path].size == size


def test_a_link_to_a_symlink_is_a_second_name_of_the_symlink() -> None:
    found = shown([symlink(b"s", b"f"), file(b"f")], [link(b"a", b"s")])
    assert (found[b"a"].target, found[b"a"].nlink, found[b"f"].nlink) == (b"f", 2, 1)


def test_a_link_to_its_own_name_changes_nothing() -> None:
    assert shown([file(b"a", size=1)], [link(b"a", b"a")])[b"a"].nlink == 1


def test_a_link_replaces_a_folder_and_may_point_into_it() -> None:
    found = shown([file(b"d/x", size=3), file(b"d/y")], [link(b"d", b"d/x")])
    assert set(found) == {b"", b"d"}
    assert (found[b"d"].size, found[b"d"].nlink) == (3, 1)


@pytest.mark.parametrize("others", [[], [whiteout(b"other")]], ids=["alone", "with-a-whiteout"])
def test_a_lower_file_that_its_own_layer_replaced_is_out_of_reach(
    others: list[Entry],
) -> None:
    lower = [file(b"a"), link(b"c/f", b"a")]
    layer = [symlink(b"c", b"a"), link(b"b", b"c/f"), *others]
    with pytest.raises(errors.CorruptImage, match="not in the image"):
        merge([lower, layer])


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        pytest.param([link(b"a", b"t")], "hard link 'a' points at 't'.*not in", id="absent"),
        pytest.param([link(b"a", b"b"), link(b"b", b"a")], "not in the image", id="circle"),
        pytest.param([link(b"a", b"a")], "not in the image", id="itself"),
        pytest.param([link(b"a", b"f/t"), file(b"f")], "not in the image", id="below-a-file"),
        pytest.param([folder(b"d"), link(b"a", b"d")], "the folder 'd'", id="folder"),
        pytest.param([link(b"a", b"d"), folder(b"d")], "the folder 'd'", id="later-folder"),
        pytest.param([link(b"a", b"")], "the folder ''", id="target-root"),
        pytest.param([file(b"t"), link(b"", b"t")], "root of the image is a hard", id="is-root"),
        pytest.param([link(b"", b"t"), file(b"t")], "root of the image is a hard", id="later-root"),
        pytest.param([symlink(b"s", b"s"), link(b"a", b"s/t")], "not in the image", id="loop"),
        pytest.param(
            [file(b"f"), symlink(b"s", b"f/.."), link(b"a", b"s/f")],
            "not in the image",
            id="dotdot-behind-a-file",
        ),
    ],
)  # fmt: skip
def test_a_link_that_can_have_no_inode_is_refused(layer: list[Entry], why: str) -> None:
    with pytest.raises(errors.CorruptImage, match=why):
        merge([layer])


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_long_chain_of_links_to_later_ones_costs_no_more_than_its_length(order: str) -> None:
    count = 30_000
    chain = [link(b"%d" % n, b"%d" % (n + 1)) for n in range(count)]
    if order == "shuffled":
        random.Random(1).shuffle(chain)
    elif order == "backward":
        chain.reverse()
    begin = time.monotonic()
    root = merge([[*chain, file(b"%d" % count, size=4)]])
    assert time.monotonic() - begin < 5
    assert root.children is not None
    assert {node.links for node in root.children.values()} == {count + 1}
