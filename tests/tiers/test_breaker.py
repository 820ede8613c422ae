"""The breaker, on trio's clock: hours pass in no time."""

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from clipfs.tiers.content.breaker import SOON_S, Breaker


async def test_it_lets_requests_through_until_one_fails() -> None:
    breaker = Breaker()
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    breaker.failed("refused")
    assert not breaker.allows()


async def test_each_failed_try_makes_it_wait_twice_as_long_up_to_a_limit(
    mock_clock: MockClock,
) -> None:
    breaker, waits = Breaker(), []
    breaker.failed("refused")
    for _ in range(7):
        begin = trio.current_time()
        while not breaker.allows():
            mock_clock.jump(0.5)
        waits.append(trio.current_time() - begin)
        breaker.failed("refused")
    assert waits == [1, 2, 4, 8, 16, 30, 30]


async def test_one_outage_that_many_requests_meet_counts_once(mock_clock: MockClock) -> None:
    breaker = Breaker()
    for _ in range(16):
        breaker.failed("refused")
    mock_clock.jump(1)
    assert breaker.allows()


async def test_one_caller_tries_while_the_others_wait_for_what_it_finds(
    mock_clock: MockClock,
) -> None:
    breaker = Breaker()
    breaker.failed("refused")
    mock_clock.jump(1)
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True, True, True]


async def test_a_caller_that_never_says_how_it_went_is_followed_by_another(
    mock_clock: MockClock,
) -> None:
    breaker = Breaker()
    breaker.failed("refused")
    mock_clock.jump(1)
    assert breaker.allows()
    mock_clock.jump(1)
    assert breaker.allows()


@pytest.mark.parametrize("failures", [1, 5])
async def test_an_outage_is_a_warning_once_and_its_end_a_line(
    failures: int, mock_clock: MockClock
) -> None:
    breaker = Breaker()
    with capture_logs() as lines:
        for _ in range(failures):
            breaker.failed("refused")
            mock_clock.jump(60)
            assert breaker.allows()
        breaker.succeeded()
    assert [line["event"] for line in lines] == [
        "content cache unavailable",
        "content cache is back",
    ]


async def test_who_needs_an_answer_asks_sooner_one_at_a_time(mock_clock: MockClock) -> None:
    breaker = Breaker()
    breaker.failed("refused")
    assert not breaker.allows(soon=True)
    mock_clock.jump(SOON_S)
    assert not breaker.allows()
    assert [breaker.allows(soon=True) for _ in range(3)] == [True, False, False]
    breaker.failed("refused")
    assert not breaker.allows(soon=True)
    mock_clock.jump(SOON_S)
    assert breaker.allows(soon=True)
    breaker.succeeded()
    assert breaker.allows()


async def test_who_asks_sooner_makes_nobody_else_wait_longer(mock_clock: MockClock) -> None:
    breaker = Breaker()
    breaker.failed("refused")
    for _ in range(10):
        mock_clock.jump(SOON_S)
        assert breaker.allows(soon=True)
        breaker.failed("refused")
    mock_clock.jump(1)
    assert breaker.allows()


async def test_an_outage_begins_with_its_first_request(mock_clock: MockClock) -> None:
    breaker = Breaker()
    assert breaker.down_since is None
    begin = trio.current_time()
    mock_clock.jump(5)
    breaker.failed("no answer", begun=begin)
    mock_clock.jump(60)
    assert breaker.allows()
    breaker.failed("no answer", begun=trio.current_time())
    assert breaker.down_since == begin
    mock_clock.jump(60)
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.down_since is None
