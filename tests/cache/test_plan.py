"""What goes, held against what must be true of any root: hypothesis makes the roots."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs.cache.inventory import Item, plain_key
from clipfs.cache.limits import Limits
from clipfs.cache.plan import Space, excess_bytes, room_bytes, to_remove

EMPTY = Space(size_bytes=1000, free_bytes=1000)
LAYERS = [f"layer-{number}" for number in range(6)]


@st.composite
def roots(draw: st.DrawFn) -> list[Item]:
    """Layers and images with every mixture of use; a mount uses its image's layers too."""
    here = draw(st.lists(st.sampled_from(LAYERS), unique=True))
    sizes, times = st.integers(0, 100), st.integers(0, 5)
    images: list[Item] = []
    for number in range(draw(st.integers(0, 4))):
        used = draw(st.booleans())
        choices = st.frozensets(st.sampled_from(here if used and here else LAYERS))
        images.append(
            Item(
                kind="image", key=f"image-{number}", state="index", bytes=draw(sizes),
                last_use_ns=draw(times), users=("/m",) if used else (),
                needs=draw(choices if used else st.none() | choices),
            )
        )  # fmt: skip
        if used and not here:
            images[-1] = replace(images[-1], needs=frozenset())
    mounted = {key for image in images if image.users for key in image.needs or ()}
    layers = [
        Item(
            kind="layer", key=key, state="complete", bytes=draw(sizes), last_use_ns=draw(times),
            users=("/m",) if key in mounted or draw(st.booleans()) else (),
        )
        for key in here
    ]  # fmt: skip
    return layers + images


limits_and_space = st.tuples(
    st.builds(
        Limits,
        max_bytes=st.none() | st.integers(0, 600),
        min_free_bytes=st.none() | st.integers(0, 600),
        min_free_percent=st.none() | st.floats(0, 60),
    ),
    st.builds(Space, size_bytes=st.just(1000), free_bytes=st.integers(0, 400)),
)


def after(items: list[Item], going: list[Item], limits: Limits, space: Space) -> int:
    """The excess once going have gone."""
    freed = sum(item.bytes for item in going)
    kept = [item for item in items if item not in going]
    return excess_bytes(kept, limits, replace(space, free_bytes=space.free_bytes + freed))


@given(roots(), limits_and_space)
def test_what_is_in_use_stays_and_nothing_goes_twice(
    items: list[Item], given_: tuple[Limits, Space]
) -> None:
    going = to_remove(items, *given_)
    assert not [item for item in going if item.users]
    assert len(set(going)) == len(going)


@given(roots(), limits_and_space)
def test_the_limits_hold_or_all_that_is_left_is_in_use(
    items: list[Item], given_: tuple[Limits, Space]
) -> None:
    going = to_remove(items, *given_)
    if after(items, going, *given_):
        assert [item for item in items if item not in going and not item.users] == []


@given(roots(), limits_and_space)
def test_no_layer_goes_before_one_that_was_used_earlier_nor_one_more_than_need_be(
    items: list[Item], given_: tuple[Limits, Space]
) -> None:
    going = to_remove(items, *given_)
    layers = [item for item in going if item.kind == "layer"]
    if layers:
        last = layers[-1]
        idle = [one for one in items if one.kind == "layer" and not one.users and one not in going]
        assert all(last.last_use_ns <= one.last_use_ns for one in idle)
        earlier = [one for one in going[: going.index(last)] if not _names(one, last)]
        assert after(items, earlier, *given_) > 0


def _names(image: Item, layer: Item) -> bool:
    """Whether image goes only because layer does."""
    return image.needs is not None and plain_key(layer.key) in image.needs


@given(roots(), limits_and_space)
def test_no_image_index_stays_that_cannot_be_mounted(
    items: list[Item], given_: tuple[Limits, Space]
) -> None:
    going = to_remove(items, *given_)
    kept = [item for item in items if item not in going]
    layers = {item.key for item in kept if item.kind == "layer"}
    for image in kept:
        assert image.users or (image.needs is not None and image.needs <= layers)


@given(roots())
def test_without_a_limit_no_layer_goes(items: list[Item]) -> None:
    going = to_remove(items, Limits(), replace(EMPTY, free_bytes=0))
    assert {item.kind for item in going} <= {"image"}


@pytest.mark.parametrize(
    ("limits", "excess"),
    [
        pytest.param(Limits(), 0, id="none"),
        pytest.param(Limits(max_bytes=100), 0, id="just-held"),
        pytest.param(Limits(max_bytes=70), 30, id="too-much"),
        pytest.param(Limits(min_free_bytes=250), 50, id="too-little-free"),
        pytest.param(Limits(min_free_percent=25), 50, id="too-little-free-in-percent"),
        pytest.param(Limits(max_bytes=70, min_free_percent=25), 50, id="the-greater-counts"),
    ],
)
def test_how_much_must_go(limits: Limits, excess: int) -> None:
    item = Item(kind="layer", key="a", state="complete", bytes=100, last_use_ns=0)
    assert excess_bytes([item], limits, Space(size_bytes=1000, free_bytes=200)) == excess


def test_a_raw_layer_keeps_the_image_that_names_its_blob() -> None:
    layer = Item(kind="layer", key="a.raw", state="complete", bytes=1, last_use_ns=0)
    image = replace(layer, kind="image", key="i", needs=frozenset({"a"}), last_use_ns=9)
    assert to_remove([layer, image], Limits(), EMPTY) == []
    assert to_remove([layer, image], Limits(max_bytes=1), EMPTY) == [image, layer]


@pytest.mark.parametrize(
    ("limits", "room"),
    [
        (Limits(), None),
        (Limits(max_bytes=100), 40),
        (Limits(max_bytes=50), -10),
        (Limits(min_free_bytes=100), 200),
        (Limits(min_free_bytes=500), -200),
        (Limits(min_free_percent=7.55), 224),
        (Limits(max_bytes=100, min_free_bytes=299), 1),
        (Limits(max_bytes=100, min_free_percent=29), 10),
    ],
    ids=str,
)
def test_room_is_what_the_strictest_limit_leaves(limits: Limits, room: int | None) -> None:
    item = Item(kind="layer", key="x", state="complete", bytes=60, last_use_ns=0)
    assert room_bytes([item], limits, Space(size_bytes=1000, free_bytes=300)) == room


@given(roots(), limits_and_space)
def test_there_is_room_exactly_where_there_is_no_excess(
    items: list[Item], given_: tuple[Limits, Space]
) -> None:
    room = room_bytes(items, *given_)
    assert excess_bytes(items, *given_) == max(0, -(room or 0))
