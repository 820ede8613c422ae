"""The source that lanes share: renewed once for all of them, and not asked before its time."""

import pytest

from clipfs import errors
from clipfs.image.model import BlobSource
from clipfs.layer.blob.broken_off import BrokenOff
from clipfs.layer.blob.lane import Sources
from clipfs.layer.blob.window import Window
from clipfs.layer.job import SourceWanted


class Asking:
    """Sources on a clock that stands; `questions` were asked, each answered by a new source."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.questions: list[SourceWanted] = []
        self.window = Window(10, segment_bytes=4)
        self.sources = Sources(source(0), self._new_source, self.window, clock=lambda: self.now_s)

    def _new_source(self, wanted: SourceWanted) -> BlobSource:
        self.questions.append(wanted)
        return source(len(self.questions))


def source(number: int) -> BlobSource:
    return BlobSource(url=f"http://h.invalid/{number}", headers={})


def broken(retry_after_s: float | None = None) -> BrokenOff:
    return BrokenOff(errors.AccessDenied("expired"), retry_after_s=retry_after_s)


def test_a_source_that_breaks_off_for_several_lanes_is_replaced_once() -> None:
    asking = Asking()
    turns = [asking.sources.take()[1] for _ in range(3)]
    segment = asking.window.claim()
    assert segment is not None
    asking.window.add(segment, b"abc")
    for turn in turns:
        asking.sources.replace(turn, broken(7))
    assert asking.sources.take()[0] == source(1)
    assert asking.questions == [
        SourceWanted(code=errors.AccessDenied.code, message="expired", at_bytes=3, retry_after_s=7)
    ]


@pytest.mark.parametrize(
    ("passed_s", "left_s"),
    [
        pytest.param(0, 7, id="at-once"),
        pytest.param(5, 2, id="meanwhile"),
        pytest.param(7, None, id="on-time"),
        pytest.param(9, None, id="later"),
    ],
)
def test_after_a_pause_the_parent_is_asked_to_wait_for_what_is_left_of_it(
    passed_s: float, left_s: float | None
) -> None:
    asking = Asking()
    asking.sources.pause(broken(7))
    asking.now_s += passed_s
    found, turn = asking.sources.take()
    assert [one.retry_after_s for one in asking.questions] == ([] if left_s is None else [left_s])
    assert (found, turn) == (source(len(asking.questions)), len(asking.questions))
    assert asking.sources.take() == (found, turn)


def test_a_busy_registry_that_names_no_time_stops_nobody() -> None:
    asking = Asking()
    asking.sources.pause(broken())
    assert asking.sources.take() == (source(0), 0)
    assert asking.questions == []
