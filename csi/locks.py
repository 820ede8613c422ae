"""One lock a name, made when somebody wants it and gone when nobody does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NamedLocks:
    """`with locks.held(name):` excludes everyone else who holds the same name."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}  # name -> lock, who wants it

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        with self._guard:
            lock, wanted = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = (lock, wanted + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, wanted = self._locks[name]
                if wanted == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = (lock, wanted - 1)
