"""Which replica a key belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfs.tiers.content.rendezvous import in_order
from tests.support.content import key_of

IDS = ["clip-content-0", "clip-content-1", "clip-content-2"]
KEYS = [key_of(number, page) for number in range(50) for page in range(20)]


@pytest.mark.parametrize(
    ("key", "order"),
    [
        pytest.param(key_of(1), [2, 0, 1], id="a page"),
        pytest.param(key_of(1, None), [1, 2, 0], id="an index"),
    ],
)
def test_the_order_is_the_same_in_every_version(key: str, order: list[int]) -> None:
    assert in_order(key, IDS) == [IDS[one] for one in order]


@given(key=st.text(), ids=st.permutations(IDS))
def test_the_order_of_the_ids_changes_nothing(key: str, ids: list[str]) -> None:
    assert in_order(key, ids) == in_order(key, IDS)
    assert sorted(in_order(key, ids)) == IDS


def test_each_replica_is_first_for_its_share_of_the_keys() -> None:
    first = [in_order(key, IDS)[0] for key in KEYS]
    for one in IDS:
        assert 0.28 < first.count(one) / len(KEYS) < 0.39


def test_a_replica_that_goes_moves_no_key_between_the_others() -> None:
    for key in KEYS:
        left = [one for one in in_order(key, IDS) if one != IDS[1]]
        assert in_order(key, [IDS[0], IDS[2]]) == left
