"""One lock a name, made when somebody wants it and gone when nobody does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from csi.errors import CallerGone

RECHECK_S = 1
"""How often one who waits looks whether its caller still does."""

StillWanted = Callable[[], bool]


def always() -> bool:
    return True


class NamedLocks:
    """`with locks.held(name):` excludes everyone else who holds the same name."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # name -> lock, who wants it

    @contextmanager
    def held(
        self,
        name: str,
        still_wanted: StillWanted = always,
        *,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Hold name for the block.

        on_wait  called now and then while another one holds it; what it raises ends the wait
        Raises  CallerGone, with the block not run, once still_wanted() says no: a call that
                was given up must not act after a later one
        """
        with self._guard:
            lock, wanted = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, wanted + 1)
        try:
            while not lock.acquire(timeout=RECHECK_S):
                _check(still_wanted)
                on_wait()
            try:
                _check(still_wanted)
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, wanted = self._locks[name]
                if wanted == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = (lock, wanted - 1)


def _check(still_wanted: StillWanted) -> None:
    if not still_wanted():
        raise CallerGone("the caller gave up while it waited for another call")
