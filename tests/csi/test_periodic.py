"""Steps in a thread of their own: when they are taken, and that none of them ends it."""

import queue
import threading

from structlog.testing import capture_logs

from csi.periodic import Periodic
from tests.support.wait import wait_for


def test_a_step_is_taken_at_once_and_then_when_it_says_or_somebody_asks() -> None:
    taken: queue.Queue[int] = queue.Queue()
    waits = iter([0.0, None, None])

    def step() -> float | None:
        taken.put(1)
        return next(waits)

    steps = Periodic("steps", step)
    with steps.running():
        for _ in range(2):
            taken.get(timeout=60)
        steps.soon()
        taken.get(timeout=60)
    assert taken.empty()
    assert "steps" not in [thread.name for thread in threading.enumerate()]


def test_what_is_asked_for_during_a_step_is_taken_after_it() -> None:
    begun, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def step() -> None:
        if begun.is_set():
            again.set()
        begun.set()
        go_on.wait()

    steps = Periodic("steps", step)
    with steps.running():
        assert begun.wait(60)
        steps.soon()
        go_on.set()
        assert again.wait(60)


def test_the_end_waits_for_a_step_under_way_no_longer_than_it_is_told_to() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def step() -> None:
        begun.set()
        go_on.wait()

    with Periodic("steps", step, end_s=0).running():
        assert begun.wait(60)
    (thread,) = (one for one in threading.enumerate() if one.name == "steps")
    go_on.set()
    thread.join()


def test_a_step_with_a_bug_is_a_line_in_the_log_and_the_next_one_is_taken() -> None:
    taken: list[int] = []

    def step() -> float | None:
        taken.append(1)
        raise ValueError("planted")

    steps = Periodic("steps", step)
    with capture_logs() as lines, steps.running():
        wait_for(lambda: len(taken) == 1)
        steps.soon()
        wait_for(lambda: len(taken) == 2)
    ours = [line["log_level"] for line in lines if line.get("thread") == "steps"]
    assert ours == ["error"] * 2
