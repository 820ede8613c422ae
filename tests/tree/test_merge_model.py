"""However layers are put together, `merge` makes the tree that a plain model makes of them."""

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.layer.index import Entry
from clipfs.tree.merge import merge
from tests.support.entries import file, folder, image_of, link, opaque, symlink, whiteout
from tests.support.merge_model import Refused, modelled
from tests.support.tree_views import view_of_merge

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
FOLDERS = st.one_of(st.just(b""), PATHS)
TARGETS = st.builds(
    lambda start, parts: start + b"/".join(parts),
    st.sampled_from([b"", b"", b"/"]),
    st.lists(st.one_of(NAMES, NAMES, st.sampled_from([b"..", b".", b""])), min_size=1, max_size=4),
)
ENTRIES = st.one_of(
    st.builds(file, PATHS),
    st.builds(file, PATHS),
    st.builds(folder, FOLDERS, st.sampled_from([0o700, 0o1777])),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(link, PATHS, PATHS),
    st.builds(whiteout, PATHS),
    st.builds(opaque, FOLDERS),
    st.sampled_from(
        [file(b".wh..wh.plnk/a"), link(b"a", b".wh..wh.plnk/a"), file(b"a/.wh..wh.b")] * 3
        + [file(b".wh."), file(b"a/.wh.."), file(b"")]
    ),
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=4)


def told_apart(layers: list[list[Entry]]) -> list[list[Entry]]:
    """The same entries, each with a size, a time and a place of its own."""
    number = iter(range(1, 1000))
    return [
        [
            msgspec.structs.replace(
                entry, mtime_s=(n := next(number)), size=n, payload_offset=512 * n
            )
            if entry.kind == 1
            else msgspec.structs.replace(entry, mtime_s=next(number))
            for entry in layer
        ]
        for layer in layers
    ]


@settings(max_examples=500, deadline=None)
@given(LAYERS.map(told_apart))
def test_the_merge_refuses_what_the_model_refuses_and_else_agrees_with_it(
    layers: list[list[Entry]],
) -> None:
    while True:
        try:
            expected = modelled(layers)
        except Refused as refused:
            event("refused, then repaired")
            with pytest.raises(errors.CorruptImage):
                merge(layers)
            layers = [[one for one in layer if one is not refused.entry] for layer in layers]
        else:
            assert view_of_merge(merge(layers)) == expected
            return


@settings(max_examples=100, deadline=None)
@given(st.data(), LAYERS.map(told_apart))
def test_whiteouts_may_stand_anywhere_in_their_layer(
    data: st.DataObject, layers: list[list[Entry]]
) -> None:
    def outcome(layers: list[list[Entry]]) -> object:
        try:
            return view_of_merge(merge(layers))
        except errors.CorruptImage:
            return "refused"

    def is_whiteout(entry: Entry) -> bool:
        return entry.path.rpartition(b"/")[2].startswith(b".wh.")

    shuffled = []
    for layer in layers:
        kept = [entry for entry in layer if not is_whiteout(entry)]
        for entry in layer:
            if is_whiteout(entry):
                kept.insert(data.draw(st.integers(0, len(kept))), entry)
        shuffled.append(kept)
    in_place = [sorted(layer, key=lambda entry: not is_whiteout(entry)) for layer in layers]
    assert outcome(shuffled) == outcome(in_place)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(st.builds(file, PATHS), unique_by=lambda entry: entry.path))
def test_the_image_does_not_depend_on_the_order_of_a_layer_without_replacements(
    data: st.DataObject, files: list[Entry]
) -> None:
    layer = [one for one in files if not any(o.path.startswith(one.path + b"/") for o in files)]
    assert image_of(data.draw(st.permutations(layer))) == image_of(layer)
