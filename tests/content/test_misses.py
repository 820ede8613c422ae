"""A key that is missed again and again is worth a warning; memory for that is bounded."""

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


def test_the_keys_missed_last_are_remembered() -> None:
    misses = Misses()
    for _ in range(MANY - 1):
        misses.add("old")
    for number in range(MAX_KEYS):
        misses.add(f"new-{number}")
    assert not misses.add("old")
    assert len(misses._counts) == MAX_KEYS
