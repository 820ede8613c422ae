"""How long look-ups may wait, on trio's clock."""

import pytest
import trio
from trio.testing import MockClock

from clipfs.tiers.content.patience import (
    ANSWER_IS_WORTH_S,
    TOTAL_S,
    WORTH_BYTES_PER_S,
    WORTH_S,
    Patience,
)


async def test_waiting_for_nothing_uses_it_up(mock_clock: MockClock) -> None:
    patience = Patience(1)
    with patience.waits():
        mock_clock.jump(0.75)
        assert patience.left_s == 0.25
    assert patience.left_s == 0.25
    mock_clock.jump(100)
    assert patience.left_s == 0.25
    with patience.waits():
        mock_clock.jump(1)
        assert patience.left_s == 0
    assert patience.left_s == 0


async def test_many_who_wait_at_once_use_it_up_once(mock_clock: MockClock) -> None:
    patience = Patience(1)
    with patience.waits(), patience.waits():
        mock_clock.jump(0.25)
        with patience.waits():
            mock_clock.jump(0.25)
    assert patience.left_s == 0.5


@pytest.mark.parametrize(
    ("received", "waited_s"),
    [
        pytest.param(0, ANSWER_IS_WORTH_S, id="a miss at once"),
        pytest.param(WORTH_BYTES_PER_S // 64, ANSWER_IS_WORTH_S + 1 / 64, id="many bytes"),
    ],
)
async def test_what_a_healthy_store_takes_is_given_back(
    received: int, waited_s: float, mock_clock: MockClock
) -> None:
    patience = Patience()
    for _ in range(100):
        with patience.waits() as waiting:
            mock_clock.jump(waited_s)
            waiting.received = received
    assert patience.left_s == pytest.approx(TOTAL_S)


async def test_what_bytes_take_is_given_back_up_to_an_end(mock_clock: MockClock) -> None:
    patience = Patience()
    assert patience.longest_s == TOTAL_S + WORTH_S
    while patience.left_s:
        with patience.waits() as waiting:
            mock_clock.jump(1)
            waiting.received = WORTH_BYTES_PER_S * 10
    assert patience.longest_s == 0
    assert trio.current_time() == pytest.approx(TOTAL_S + WORTH_S, abs=1.1)


async def test_slow_answers_use_it_up_though_they_are_answers(mock_clock: MockClock) -> None:
    patience = Patience()
    while patience.left_s:
        with patience.waits() as waiting:
            mock_clock.jump(0.1)
            waiting.received = 100
    assert trio.current_time() < 1.1


async def test_being_told_to_wait_for_another_node_uses_nothing_up(mock_clock: MockClock) -> None:
    patience = Patience()
    for _ in range(100):
        with patience.waits() as waiting:
            mock_clock.jump(TOTAL_S / 2)
            waiting.received, waiting.is_no_delay = 0, True
    assert patience.left_s == pytest.approx(TOTAL_S)
