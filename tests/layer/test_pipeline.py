"""Pipes and stages: bounded, in order, and no side waits for one that has failed."""

import threading

import pytest

from clipfs.layer.pipeline import QUEUE_PIECES, Pipe, Stage, Stopped
from tests.support.wait import wait_for


def test_what_is_put_comes_out_in_order_and_then_the_end() -> None:
    pipe: Pipe[int] = Pipe()
    for number in range(QUEUE_PIECES):
        pipe.put(number)
    pipe.end()
    assert [pipe.get() for _ in range(QUEUE_PIECES)] == list(range(QUEUE_PIECES))
    assert pipe.get() is None
    assert pipe.get() is None


def test_a_full_pipe_makes_its_writer_wait_and_a_stop_lets_it_go() -> None:
    pipe: Pipe[int] = Pipe()
    outcome: list[str] = []

    def write() -> None:
        try:
            for number in range(QUEUE_PIECES + 1):
                pipe.put(number)
                outcome.append("put")
        except Stopped:
            outcome.append("stopped")

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(outcome) == QUEUE_PIECES)
    assert writer.is_alive()
    pipe.stop()
    writer.join()
    assert outcome == ["put"] * QUEUE_PIECES + ["stopped"]


def test_a_stage_consumes_everything_before_it_finishes() -> None:
    taken: list[bytes] = []
    stage = Stage(taken.append)
    pieces = [bytes([number]) for number in range(100)]
    for piece in pieces:
        stage.put(piece)
    stage.finish()
    assert taken == pieces


class Failing:
    """Consumes until it is told to fail, at its next piece."""

    def __init__(self) -> None:
        self.busy = threading.Event()
        self.fail = threading.Event()

    def take(self, _: bytes) -> None:
        self.busy.set()
        self.fail.wait()
        raise OSError("disk full")


def put_many(stage: Stage) -> None:
    for _ in range(QUEUE_PIECES + 2):
        stage.put(b"x")


def test_a_stage_s_error_reaches_the_next_put() -> None:
    failing = Failing()
    failing.fail.set()
    with pytest.raises(OSError, match="disk full"):
        put_many(Stage(failing.take))


def test_a_stage_that_fails_behind_a_full_pipe_lets_finish_go() -> None:
    failing = Failing()
    stage = Stage(failing.take)
    stage.put(b"x")
    failing.busy.wait()
    for _ in range(QUEUE_PIECES):
        stage.put(b"x")
    failing_soon = threading.Thread(target=failing.fail.set)
    failing_soon.start()
    with pytest.raises(OSError, match="disk full"):
        stage.finish()
    failing_soon.join()
