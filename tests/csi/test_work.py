"""Work that calls share: who gets what of it, when it is given up, and by what clock."""

import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from clipfs import errors
from csi.calls import ANSWER_EARLY_S, CALL_S, Call, wait_s
from csi.errors import CallerGone, StillIndexing
from csi.interest import Interest
from csi.progress import in_words
from csi.status.reporter import WorkProgress
from csi.work import LINGER_S, Task, Works
from tests.support.wait import wait_for

HALF = WorkProgress(layer=1, layers=2, done_bytes=5, total_bytes=10, bytes_per_s=5)
HALF_IN_WORDS = "indexing layer 1 of 2: 50%, 5 of 10 B, 5 B/s, about 1 s left"


@dataclass
class Scene:
    """Works on a clock that a test sets, and one piece of work that ends when a test says so.

    runs  how often it has begun; `gate` lets it go on; `stopped` how often it was told to stop
    idle  the keys that were given up
    """

    now: float = 1000.0
    runs: int = 0
    stopped: int = 0
    error: Exception | None = None
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)
    idle: list[Hashable] = field(default_factory=list)
    works: Works[str, WorkProgress] = field(init=False)

    def __post_init__(self) -> None:
        self.works = Works(self.idle.append, in_words=in_words, clock=lambda: self.now)

    def run(self, task: Task[str, WorkProgress]) -> str:
        self.runs += 1
        task.tell(HALF)
        self.begun.release()
        while not self.gate.wait(0.01):
            if not task.is_wanted():
                self.stopped += 1
                raise CallerGone("stopped")
        if self.error is not None:
            raise self.error
        return f"result {self.runs}"

    def call(self, name: str, *, within_s: float = 1e9, wanted: bool = True, key: str = "k") -> str:
        call = Call(
            still_wanted=lambda: wanted, answer_by=self.now + within_s, clock=lambda: self.now
        )
        with self.works.joined(key, self.run, name=name, call=call) as result:
            return result

    def is_wanted(self) -> bool:
        return self.works.wants(lambda key: key == "k")


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.works.end()


@contextmanager
def calling(scene: Scene, *names: str) -> Iterator[list[Future[str]]]:
    """Calls that wait for one piece of work that has begun."""
    with ThreadPoolExecutor() as pool:
        first = pool.submit(scene.call, names[0])
        assert scene.begun.acquire(timeout=60)
        yield [first, *(pool.submit(scene.call, name) for name in names[1:])]


@pytest.mark.parametrize(
    ("remaining_s", "waits_s"),
    [(120, 115), (600, 595), (10, 5), (6, 1), (5, 1), (2, 1), (0.5, 0.25), (0, 0),
     (9.2e18, CALL_S - ANSWER_EARLY_S)],
)  # fmt: skip
def test_a_call_waits_until_shortly_before_its_time_is_up(
    remaining_s: float, waits_s: float
) -> None:
    assert wait_s(remaining_s) == waits_s


def test_interest_lasts_while_somebody_waits_and_a_while_for_who_was_sent_away() -> None:
    interest = Interest()
    assert not interest.lasts(0, 10)
    interest.comes("a")
    interest.comes("b")
    assert interest.lasts(1e9, 10)
    interest.goes("a", 100, served=False)
    interest.goes("b", 105, served=True)
    assert (interest.lasts(109, 10), interest.lasts(110, 10)) == (True, False)
    interest.comes("a")
    interest.goes("a", 107, served=True)
    assert not interest.lasts(108, 10)


def test_all_who_come_share_one_run_and_its_end_is_the_works_end(scene: Scene) -> None:
    with calling(scene, "a", "b", "c") as calls:
        waiting(scene, 3)
        scene.gate.set()
        assert {call.result() for call in calls} == {"result 1"}
    wait_for(lambda: set(scene.idle) == {"k"})
    assert not scene.is_wanted()


def test_a_call_whose_time_is_up_is_told_how_far_it_is_and_the_next_joins_again(
    scene: Scene,
) -> None:
    for _ in range(3):
        with pytest.raises(StillIndexing) as told:
            scene.call("a", within_s=0)
    assert scene.begun.acquire(timeout=60)
    with pytest.raises(StillIndexing, match=HALF_IN_WORDS):
        scene.call("a", within_s=0)
    assert str(told.value) in (HALF_IN_WORDS, "waiting for its turn")
    with ThreadPoolExecutor() as pool:
        last = pool.submit(scene.call, "a")
        waiting(scene, 1)
        scene.gate.set()
        assert last.result() == "result 1"
    assert scene.stopped == 0


def test_work_that_nobody_comes_back_for_is_stopped_after_the_linger_and_not_before(
    scene: Scene,
) -> None:
    with pytest.raises(StillIndexing):
        scene.call("a", within_s=0)
    assert scene.begun.acquire(timeout=60)
    scene.now += LINGER_S - 1
    with pytest.raises(StillIndexing):
        scene.call("b", within_s=0)
    scene.now += LINGER_S - 1
    assert scene.is_wanted()
    assert (scene.stopped, scene.idle) == (0, [])
    scene.now += 1
    wait_for(lambda: scene.idle == ["k"])
    assert (scene.runs, scene.stopped, scene.is_wanted()) == (1, 1, False)


def test_a_result_waits_for_who_was_sent_away_and_then_is_given_up(scene: Scene) -> None:
    with pytest.raises(StillIndexing):
        scene.call("a", within_s=0)
    scene.gate.set()
    assert scene.call("other", key="another") != ""
    assert scene.is_wanted()
    scene.now += LINGER_S - 1
    assert scene.is_wanted()
    assert "k" not in scene.idle
    scene.now += 1
    wait_for(lambda: "k" in scene.idle)
    assert not scene.is_wanted()


def test_a_result_is_wanted_until_who_got_it_is_done_with_it(scene: Scene) -> None:
    scene.gate.set()
    with scene.works.joined("k", scene.run, name="a", call=Call(clock=lambda: scene.now)) as result:
        assert result == "result 1"
        scene.now += 10 * LINGER_S
        assert scene.is_wanted()
        assert scene.idle == []
    assert not scene.is_wanted()
    wait_for(lambda: scene.idle == ["k"])


def test_who_comes_later_has_the_result_made_sure_of(scene: Scene) -> None:
    """It may have died meanwhile; what runs again finds it there."""
    with pytest.raises(StillIndexing):
        scene.call("a", within_s=0)
    scene.gate.set()
    wait_for(lambda: scene.runs == 1)
    assert scene.call("a") in ("result 1", "result 2")
    assert scene.call("b") == f"result {scene.runs}"


@pytest.mark.parametrize("error", [errors.CorruptImage("spoiled"), ValueError("a bug")])
def test_a_failure_is_told_to_all_who_wait_and_the_next_call_starts_anew(
    scene: Scene, error: Exception
) -> None:
    scene.error = error
    with calling(scene, "a", "b", "c") as calls:
        waiting(scene, 3)
        scene.gate.set()
        found = [call.exception() for call in calls]
    assert [(type(one), str(one)) for one in found] == [(type(error), str(error))] * 3
    assert scene.runs == 1
    scene.error = None
    assert scene.call("a") == "result 2"


def waiting(scene: Scene, count: int) -> None:
    """Until so many calls wait for the work."""
    works = scene.works._works
    wait_for(lambda: sum(work.interest.waiting for work in works.values()) == count)


def test_a_failure_is_told_once_to_who_was_away_when_it_came(scene: Scene) -> None:
    scene.error = errors.CorruptImage("spoiled")
    for name in ("a", "b"):
        with pytest.raises(StillIndexing):
            scene.call(name, within_s=0)
    scene.gate.set()
    wait_for(lambda: not scene.is_wanted())
    for name in ("a", "b"):
        with pytest.raises(errors.CorruptImage, match="spoiled"):
            scene.call(name)
    assert scene.runs == 1
    scene.error = None
    assert scene.call("a") == "result 2"


def test_an_answer_that_is_new_enough_is_given_to_who_was_away_and_to_nobody_else(
    scene: Scene,
) -> None:
    scene.works = Works(scene.idle.append, in_words=in_words, keep_s=60, clock=lambda: scene.now)
    for name in ("a", "b"):
        with pytest.raises(StillIndexing):
            scene.call(name, within_s=0)
    assert scene.begun.acquire(timeout=60)
    scene.gate.set()
    wait_for(lambda: scene.works._works["k"].last is not None)
    scene.now += 60
    assert scene.call("a") == "result 1"
    assert scene.call("c") == "result 2"
    wait_for(lambda: scene.works._works["k"].running is None)
    scene.now += 61
    assert scene.call("b") == "result 3"


def test_who_comes_while_it_is_being_stopped_gets_a_run_of_its_own(scene: Scene) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def stubborn(task: Task[str, WorkProgress]) -> str:
        wait_for(lambda: not task.is_wanted())
        asked.set()
        go_on.wait()
        raise CallerGone("stopped")

    call = Call(answer_by=scene.now, clock=lambda: scene.now)
    with pytest.raises(StillIndexing), scene.works.joined("k", stubborn, name="a", call=call):
        pass
    scene.now += LINGER_S
    assert asked.wait(60)
    scene.gate.set()
    with ThreadPoolExecutor() as pool:
        again = pool.submit(scene.call, "a")
        waiting(scene, 1)
        go_on.set()
        assert again.result() == "result 1"


def test_a_call_whose_caller_has_gone_ends_and_the_work_goes_on(scene: Scene) -> None:
    with pytest.raises(CallerGone):
        scene.call("a", wanted=False)
    assert scene.begun.acquire(timeout=60)
    assert scene.is_wanted()
    assert scene.stopped == 0


def test_keys_are_pieces_of_work_of_their_own(scene: Scene) -> None:
    for key in ("k", "l"):
        with pytest.raises(StillIndexing):
            scene.call("a", within_s=0, key=key)
    for _ in range(2):
        assert scene.begun.acquire(timeout=60)
    assert scene.runs == 2


def test_at_the_end_all_are_answered_all_is_stopped_and_nobody_comes_in(scene: Scene) -> None:
    with calling(scene, "a", "b") as calls:
        waiting(scene, 2)
        scene.works.end()
        for call in calls:
            assert str(call.exception()).startswith(f"{HALF_IN_WORDS}; the driver ends")
            assert isinstance(call.exception(), StillIndexing)
    assert (scene.stopped, scene.idle) == (1, ["k"])
    with pytest.raises(StillIndexing, match="the driver ends"):
        scene.call("c")
    assert scene.runs == 1


def test_a_call_for_which_no_thread_can_start_is_told_so_and_the_next_starts_anew(
    scene: Scene,
) -> None:
    before = threading.stack_size(1 << 60)  # no machine has room for such a thread
    try:
        with pytest.raises(RuntimeError, match="start new thread"):
            scene.call("a", within_s=0)
    finally:
        threading.stack_size(before)
    assert not scene.is_wanted()
    scene.gate.set()
    assert scene.call("a", within_s=60) == "result 1"
