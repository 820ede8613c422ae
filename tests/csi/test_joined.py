"""Many who want the same thing at the same moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipfs import errors
from csi.joined import Joined

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
