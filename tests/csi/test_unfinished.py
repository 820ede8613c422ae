"""Volumes that are not there yet: what is pinned for them, and which of them are forgotten."""

from pathlib import Path

from clipfs.image.digest import Digest
from csi.unfinished import MOST, Unfinished
from csi.volume import Volume
from tests.support.volumes import volume_of

DIGEST = Digest("sha256:" + "a" * 64)


def volume(number: int) -> Volume:
    return volume_of("h.io/app:1", name=f"pod-{number}")


def test_what_a_tag_was_is_kept_until_the_volume_is_there() -> None:
    unfinished = Unfinished(lambda _: None)
    assert unfinished.begin(volume(1)) is None
    unfinished.pin(volume(1).target, DIGEST)
    assert unfinished.begin(volume(1)) == DIGEST
    assert unfinished.begin(volume(2)) is None
    assert unfinished.end(volume(1).target) == volume(1)
    assert unfinished.begin(volume(1)) is None


def test_of_too_many_those_are_forgotten_and_told_that_were_called_for_longest_ago() -> None:
    forgotten: list[Path] = []
    unfinished = Unfinished(forgotten.append)
    for number in range(MOST):
        unfinished.begin(volume(number))
    unfinished.begin(volume(0))
    assert forgotten == []
    unfinished.begin(volume(MOST))
    assert forgotten == [volume(1).target]
    assert unfinished.end(volume(1).target) is None
    assert unfinished.end(volume(0).target) == volume(0)
