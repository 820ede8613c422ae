"""Calls for the same thing at the same time are one call, whose outcome all of them get.

Not here: what is remembered after that (`csi.access.proofs`, `csi.credentials.providers`); work
that outlives its callers (`csi.work`).
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Joined(Generic[T]):
    """Calls under way, by key."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._under_way: dict[Hashable, Future[T]] = {}

    def call(self, key: Hashable, function: Callable[[], T]) -> T:
        """What function returns, or raises, here or in the thread that called first."""
        with self._guard:
            outcome = self._under_way.get(key)
            if is_first := outcome is None:
                outcome = self._under_way[key] = Future()
        if is_first:
            try:
                outcome.set_result(function())
            except BaseException as error:  # whatever it is, all must have it
                outcome.set_exception(error)
            finally:
                with self._guard:
                    del self._under_way[key]
        return outcome.result()
