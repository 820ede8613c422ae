"""When a source is too slow, and when a reader starves: tables of times, no clock."""

import pytest

from clipfs.layer.blob.pace import SLOWEST_BYTES_PER_S, Pace
from clipfs.layer.blob.starvation import Starvation

WINDOW_S = 60.0


@pytest.mark.parametrize(
    ("arrivals", "verdicts"),
    [
        pytest.param([(1, 1.0)] * 60, [False] * 59 + [True], id="a-byte-a-second"),
        pytest.param([(SLOWEST_BYTES_PER_S, 1.0)] * 120, [False] * 120, id="just-fast-enough"),
        pytest.param([(61_440, 0.1), (0, 59.9)], [False, False], id="all-at-the-beginning"),
        pytest.param([(61_439, 0.1), (0, 59.9)], [False, True], id="a-byte-too-few"),
    ],
)
def test_a_window_of_time_decides_whether_a_source_is_too_slow(
    arrivals: list[tuple[int, float]], verdicts: list[bool]
) -> None:
    pace = Pace(WINDOW_S)
    assert [
        pace.is_too_slow(count=count, waited_s=waited_s) for count, waited_s in arrivals
    ] == verdicts


@pytest.mark.parametrize(
    ("reads", "is_met"),
    [
        pytest.param([], False, id="none"),
        pytest.param([(9.0, 0.0)], False, id="waits-for-the-answer-only"),
        pytest.param([(9.0, 0.0), (0.06, 0.0)], True, id="waits-only"),
        pytest.param([(9.0, 0.0), (0.04, 0.0)], False, id="not-long"),
        pytest.param([(0.0, 0.02)] * 200, False, id="works-only"),
        pytest.param([(0.0, 0.0)] + [(0.01, 0.02)] * 20, True, id="waits-a-third"),
        pytest.param([(0.0, 0.0)] + [(0.01, 0.04)] * 200, False, id="waits-a-fifth"),
        pytest.param([(0.0, 5.0)] + [(0.01, 0.0)] * 170, True, id="waits-from-some-time-on"),
    ],
)
def test_a_reader_starves_that_waits_for_a_part_of_its_time(
    reads: list[tuple[float, float]], is_met: bool
) -> None:
    """Each read waits for so long and is worked on for so long."""
    starvation, now_s = Starvation(), 1000.0
    for waited_s, worked_s in reads:
        now_s += waited_s
        starvation.add(waited_s=waited_s, now_s=now_s)
        now_s += worked_s
    assert starvation.is_met(now_s) == is_met
