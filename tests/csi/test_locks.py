"""Who waits for whom, and who no longer does."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from csi.errors import CallerGone
from csi.locks import NamedLocks


def test_one_name_excludes_and_another_does_not() -> None:
    locks = NamedLocks()
    waits, entered = threading.Event(), threading.Event()

    def enter() -> None:
        with locks.held("a", on_wait=waits.set):
            entered.set()

    with ThreadPoolExecutor() as pool:
        with locks.held("a"):
            with locks.held("b"):
                pass
            waiter = pool.submit(enter)
            assert waits.wait(60)
            assert not entered.is_set()
        waiter.result()


def test_who_gave_up_while_it_waited_does_nothing() -> None:
    locks = NamedLocks()
    asked = threading.Event()

    def gone() -> bool:
        asked.set()
        return False

    def act() -> None:
        with locks.held("a", gone):
            raise AssertionError("a call that was given up acted")

    with ThreadPoolExecutor() as pool, locks.held("a"):
        late = pool.submit(act)
        asked.wait()
        with pytest.raises(CallerGone):
            late.result()


def test_who_gave_up_before_its_turn_does_nothing_and_lets_others_in() -> None:
    locks = NamedLocks()
    with pytest.raises(CallerGone), locks.held("a", lambda: False):
        raise AssertionError("a call that was given up acted")
    with locks.held("a"):
        pass


def test_an_error_inside_frees_the_name() -> None:
    locks = NamedLocks()
    with pytest.raises(ValueError, match="inside"), locks.held("a"):
        raise ValueError("inside")
    with locks.held("a"):
        pass


def test_who_waits_may_give_up_for_a_reason_of_its_own_and_who_need_not_wait_is_not_asked() -> None:
    locks = NamedLocks()

    def give_up() -> None:
        raise TimeoutError("no more time")

    with locks.held("a", on_wait=give_up), ThreadPoolExecutor() as pool:

        def wait() -> None:
            with locks.held("a", on_wait=give_up):
                raise AssertionError("two hold one name")

        with pytest.raises(TimeoutError):
            pool.submit(wait).result()
