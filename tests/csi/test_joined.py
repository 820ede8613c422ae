"""Many who want the same thing at the same moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipfs import errors
from csi.cluster.errors import ApiRejected
from csi.errors import CallerGone
from csi.joined import Joined
from tests.support.wait import wait_for

CALLS = 8


class Key:
    """It is looked up once by each call, and stored by the first; then `all_there` is set."""

    def __init__(self) -> None:
        self.all_there = threading.Event()
        self._left = CALLS + 1

    def __hash__(self) -> int:
        self._left -= 1
        if self._left == 0:
            self.all_there.set()
        return 0


@pytest.mark.parametrize("fails", [False, True])
def test_calls_at_the_same_time_are_one_call_and_have_one_outcome(fails: bool) -> None:
    joined, ran, key = Joined[str](), [], Key()

    def ask() -> str:
        ran.append(1)
        assert key.all_there.wait(60)
        if fails:
            raise errors.RegistryUnavailable("away")
        return "there"

    def outcome() -> str:
        try:
            return joined.call(key, ask)
        except errors.RegistryUnavailable as error:
            return str(error)

    with ThreadPoolExecutor(CALLS) as pool:
        calls = [pool.submit(outcome) for _ in range(CALLS)]
        assert {call.result() for call in calls} == {"away" if fails else "there"}
    assert len(ran) == 1


def test_a_later_call_and_another_key_run_anew() -> None:
    joined, ran = Joined[None](), []
    for key in ("a", "a", "b"):
        joined.call(key, lambda key=key: ran.append(key))  # type: ignore[misc] # mypy cannot type defaults
    assert ran == ["a", "a", "b"]


class Hasty:
    """An asker who wants no answer."""

    def is_wanted(self) -> bool:
        return False

    def waits_for(self, what: str) -> None:
        raise NotImplementedError


def test_who_gives_up_leaves_the_others_to_the_question() -> None:
    joined, begun, go_on = Joined[str](), threading.Event(), threading.Event()

    def ask() -> str:
        begun.set()
        assert go_on.wait(60)
        return "there"

    with ThreadPoolExecutor() as pool:
        patient = pool.submit(joined.call, "k", ask)
        assert begun.wait(60)
        with pytest.raises(CallerGone):
            joined.call("k", ask, Hasty())
        go_on.set()
        assert patient.result() == "there"


def test_where_the_first_gives_up_one_of_the_others_asks_anew() -> None:
    joined, key, ran = Joined[str](), Key(), []

    def given_up() -> str:
        ran.append("first")
        assert key.all_there.wait(60)
        raise CallerGone("nobody wants it")

    def ask() -> str:
        ran.append("other")
        return "there"

    with ThreadPoolExecutor(CALLS) as pool:
        first = pool.submit(joined.call, key, given_up)
        wait_for(lambda: ran == ["first"])
        others = [pool.submit(joined.call, key, ask) for _ in range(CALLS - 1)]
        assert {call.result() for call in others} == {"there"}
        assert isinstance(first.exception(), CallerGone)


def test_each_who_gets_an_error_gets_one_of_his_own() -> None:
    joined, key = Joined[None](), Key()

    def ask() -> None:
        assert key.all_there.wait(60)
        raise ApiRejected("no such pod", status=404)

    def outcome() -> BaseException | None:
        with pytest.raises(ApiRejected, match="no such pod") as caught:
            joined.call(key, ask)
        assert caught.value.status == 404
        return caught.value

    with ThreadPoolExecutor(CALLS) as pool:
        calls = [pool.submit(outcome) for _ in range(CALLS)]
        assert len({id(error) for error in [call.result() for call in calls]}) == CALLS
