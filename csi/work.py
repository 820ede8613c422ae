"""Work that is shared by all calls that want it, and outlives each of them.

    with works.joined(key, run, name=..., call=...) as result:

Whoever comes first has run(task) begun, in a thread of the work's own; the others join. A call
whose time is up gets StillIndexing, and the work goes on: for LINGER_S after the last call that
wanted it. Then `task.is_wanted()` says no, and it is to stop; a result that is there is given up.

The thread lives as long as the command that it starts, and waits for its end.

Not here: what is done (`csi.mounter`, `csi.admissions`), and whether a result is in use
(`csi.trees`).
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from clipfs.log import log
from csi.calls import Call
from csi.errors import CallerGone, StillIndexing, anew
from csi.interest import Interest

LINGER_S = 300
"""The kubelet calls again after 2 minutes at most: one call may be lost."""

RECHECK_S = 1
"""How often one who waits looks at its caller and at the clock."""

T = TypeVar("T")
P = TypeVar("P")
"""How far a piece of work is."""


@dataclass(slots=True, eq=False)
class Task(Generic[T, P]):
    """One run of a piece of work: what `run` asks and tells, and what came of it."""

    run: Callable[["Task[T, P]"], T]
    is_wanted: Callable[[], bool]
    progress: P | None = None
    stopped: bool = False
    done: bool = False
    result: T | None = None
    error: Exception | None = None
    ended_s: float = 0

    def tell(self, progress: P) -> None:
        """Say how far it is to all who wait."""
        self.progress = progress


@dataclass(slots=True, eq=False)
class _Work(Generic[T, P]):
    """Under one key: what runs, what runs next, and what came of the last that ran."""

    interest: Interest = field(default_factory=Interest)
    running: Task[T, P] | None = None
    next: Task[T, P] | None = None
    last: Task[T, P] | None = None

    def ended_for(self, name: str, since_s: float) -> bool:
        """Whether it has ended while name was away: failed, or else at since_s or later."""
        if self.last is None or self.running or name not in self.interest.sent_away:
            return False
        return self.last.error is not None or self.last.ended_s >= since_s


class Works(Generic[T, P]):
    """Pieces of work by key; on_idle is called, in a thread, of each that nobody wants any more."""

    def __init__(
        self,
        on_idle: Callable[[Hashable], None],
        *,
        in_words: Callable[[P | None], str],
        linger_s: float = LINGER_S,
        keep_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """in_words  says to people how far work is; None: it has not begun
        keep_s    how old a result may be that is given to who was away when it came; for
                  others, and after that, it is made anew
        """
        self._on_idle = on_idle
        self._in_words = in_words
        self._linger_s = linger_s
        self._keep_s = keep_s
        self._clock = clock
        self._works: dict[Hashable, _Work[T, P]] = {}
        self._waiting: dict[str, Task[T, P]] = {}  # by the name of who waits for it
        self._threads: set[threading.Thread] = set()
        self._changed = threading.Condition()
        self._ending = False

    @contextmanager
    def joined(
        self,
        key: Hashable,
        run: Callable[[Task[T, P]], T],
        *,
        name: str,
        call: Call,
        on_wait: Callable[[P | None], None] = lambda _: None,
    ) -> Iterator[T]:
        """The work's result, which is wanted until the block ends.

        name     of who calls: the same when it calls again
        on_wait  told how far the work is, while the call waits
        Raises   what run raised, to all who waited and once to each who had been sent away;
                 StillIndexing if the call's time is up, CallerGone if its caller has gone
        """
        with self._changed:
            work, task = self._join(key, run, name)
            self._waiting[name] = task
        served = False
        try:
            self._wait(task, call, on_wait)
            served = True
            if task.error is not None:
                raise anew(task.error) from task.error
            yield task.result  # type: ignore[misc] # a T, as there is no error
        finally:
            with self._changed:
                self._waiting.pop(name, None)
                work.interest.goes(name, self._clock(), served=served)
                self._changed.notify_all()

    def words(self, name: str) -> str | None:
        """How far it is what name waits for just now; None: it waits for nothing."""
        with self._changed:
            task = self._waiting.get(name)
            return self._in_words(task.progress) if task is not None else None

    def wants(self, is_meant: Callable[[Hashable], bool]) -> bool:
        """Whether work runs, or its result is wanted, whose key is meant."""
        with self._changed:
            return any(is_meant(key) and self._holds(work) for key, work in self._works.items())

    def end(self) -> None:
        """Answer all who wait, stop all work, and return once it has ended; there is no more."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _join(
        self, key: Hashable, run: Callable[[Task[T, P]], T], name: str
    ) -> tuple[_Work[T, P], Task[T, P]]:
        """The work under key, and the task whose end is waited for."""
        if self._ending:
            raise StillIndexing("the driver ends; the next one takes this up")
        work = self._works.get(key) or self._begun(key)
        task = self._task_for(work, run, name)
        work.interest.comes(name)
        self._changed.notify_all()
        return work, task

    def _begun(self, key: Hashable) -> _Work[T, P]:
        """New work, whose thread goes on once it is known; RuntimeError if none can start."""
        work = _Work[T, P]()
        live = partial(copy_context().run, self._live, key, work)
        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        self._threads.add(thread)
        self._works[key] = work
        return work

    def _task_for(self, work: _Work[T, P], run: Callable[[Task[T, P]], T], name: str) -> Task[T, P]:
        if work.running is not None and not work.running.stopped:
            return work.running
        if work.last is not None and work.ended_for(name, self._clock() - self._keep_s):
            return work.last
        if work.next is None:
            task = Task(run, lambda: self._is_wanted(work, task))
            work.next = task
        return work.next

    def _wait(self, task: Task[T, P], call: Call, on_wait: Callable[[P | None], None]) -> None:
        """Return when the task is done."""
        while True:
            with self._changed:
                if not (task.done or self._ending):
                    self._changed.wait(min(RECHECK_S, max(0, call.left_s())))
                if task.done:
                    return
                ending = self._ending
            on_wait(task.progress)
            if ending:
                said = self._in_words(task.progress)
                raise StillIndexing(f"{said}; the driver ends, the next goes on")
            if call.left_s() <= 0:
                raise StillIndexing(self._in_words(task.progress))
            if not call.still_wanted():
                raise CallerGone("the caller gave up before there was an answer")

    def _is_wanted(self, work: _Work[T, P], task: Task[T, P]) -> bool:
        """What was told once that it is not, is not wanted for good: who comes gets the next."""
        with self._changed:
            lasts = work.interest.lasts(self._clock(), self._linger_s)
            task.stopped = task.stopped or self._ending or not lasts
            return not task.stopped

    def _holds(self, work: _Work[T, P]) -> bool:
        if work.running or work.next or work.interest.waiting:
            return True
        has_result = work.last is not None and work.last.error is None
        return has_result and work.interest.lasts(self._clock(), self._linger_s)

    def _live(self, key: Hashable, work: _Work[T, P]) -> None:
        """The work's thread."""
        while (task := self._next(key, work)) is not None:
            try:
                task.result = task.run(task)
            except Exception as error:
                task.error = error
            with self._changed:
                task.done, task.ended_s = True, self._clock()
                work.last, work.running = task, None
                self._changed.notify_all()
        try:
            self._on_idle(key)
        except Exception:
            log.exception("giving work up failed, this is a bug")
        with self._changed:
            self._threads.discard(threading.current_thread())

    def _next(self, key: Hashable, work: _Work[T, P]) -> Task[T, P] | None:
        """What to run next, once there is something; None once nobody wants anything."""
        with self._changed:
            while work.next is None or self._ending:
                lasts = not self._ending and work.interest.lasts(self._clock(), self._linger_s)
                if not (lasts or work.interest.waiting):
                    del self._works[key]
                    return None
                self._changed.wait(RECHECK_S)
            work.running, work.next = work.next, None
            return work.running
