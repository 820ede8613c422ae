"""Questions for the same thing at the same time are one question, whose outcome all of them get.

Not here: what is remembered after that (`csi.access.proofs`, `csi.credentials.providers`); work
that outlives who asked for it (`csi.work`).
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from csi.asker import PATIENT, Asker
from csi.errors import CallerGone, anew

RECHECK_S = 1
"""How often one who waits looks whether its asker still does."""

T = TypeVar("T")


class Joined(Generic[T]):
    """Questions under way, by key."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._under_way: dict[Hashable, Future[T]] = {}

    def call(self, key: Hashable, function: Callable[[], T], asker: Asker = PATIENT) -> T:
        """What function returns, or raises, here or in the thread that called first.

        An error is one object for each who gets it: raising it adds to its traceback.
        Raises  CallerGone if asker wants it no more; it may be function that finds that. If it
                was the first one's, one of the others calls function anew
        """
        while True:
            with self._guard:
                outcome = self._under_way.get(key)
                if is_first := outcome is None:
                    outcome = self._under_way[key] = Future()
            if is_first:
                self._fulfil(key, outcome, function)
                return outcome.result()
            _wait(outcome, asker)
            error = outcome.exception()
            if error is None:
                return outcome.result()
            if not isinstance(error, CallerGone):
                raise anew(error) from error

    def _fulfil(self, key: Hashable, outcome: Future[T], function: Callable[[], T]) -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # whatever it is, all must have it
            outcome.set_exception(error)
        finally:
            with self._guard:
                del self._under_way[key]


def _wait(outcome: Future[T], asker: Asker) -> None:
    while not wait([outcome], RECHECK_S).done:
        if not asker.is_wanted():
            raise CallerGone("nobody wants the answer any more")
