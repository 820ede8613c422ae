"""A key that is missed again and again is worth a warning; memory for that is bounded."""

import os

from clipfs.content.misses import MANY, MAX_KEYS, Misses


def test_every_tenth_miss_of_a_key_is_worth_a_warning() -> None:
    misses = Misses()
    assert [misses.add("a") for _ in range(2 * MANY)] == ([False] * (MANY - 1) + [True]) * 2


def test_keys_are_counted_apart_and_forgotten_once_they_are_there() -> None:
    misses = Misses()
    for number in range(MANY - 1):
        misses.add("a")
        misses.add(f"other-{number}")
    misses.forget("a")
    assert not misses.add("a")


def test_a_key_is_forgotten_for_many_others() -> None:
    misses = Misses()
    for _ in range(MANY - 1):
        misses.add("old")
    for number in range(20 * MAX_KEYS):
        misses.add(f"new-{number}")
    assert not misses.add("old")


def test_processes_that_are_forked_later_count_together() -> None:
    misses = Misses()
    for _ in range(MANY - 1):
        if not (pid := os.fork()):
            os._exit(misses.add("a"))
        assert os.waitpid(pid, 0)[1] == 0
    assert misses.add("a")
