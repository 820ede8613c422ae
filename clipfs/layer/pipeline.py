"""Threads that hand each other a payload's pieces; whichever side fails ends the other.

A `Pipe` is a bounded queue between two threads, a `Stage` a thread that consumes one. Hashing,
inflating and writing release the GIL, so stages run side by side.

Not here: what the stages do (`clipfs.layer.worker`).
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

QUEUE_PIECES = 8
"""Pieces of at most 1 MiB that wait between two threads; with three pipes 24 MiB."""

T = TypeVar("T")


class Stopped(Exception):
    """The reading side of a pipe has given up."""


class Pipe(Generic[T]):
    """A bounded queue with an end; one thread puts, another gets."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def put(self, item: T) -> None:
        """Hand on item, waiting while the pipe is full; Stopped if nobody will read it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < QUEUE_PIECES or self._stopped)
            if self._stopped:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be put. Never waits."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def get(self) -> T | None:
        """The next item, waiting for it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._ended)
            if not self._items:
                return None
            self._changed.notify_all()
            return self._items.popleft()

    def stop(self) -> None:
        """The reading side gives up: the other side's put fails, a waiting one too."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


class Stage(threading.Thread):
    """A thread that consumes what is put; its error is raised by the next `put` or `finish`."""

    def __init__(self, consume: Callable[[bytes], None]) -> None:
        super().__init__(daemon=True)
        self._pipe: Pipe[bytes] = Pipe()
        self._consume = consume
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while (piece := self._pipe.get()) is not None:
                self._consume(piece)
        except Exception as error:
            self._error = error
            self._pipe.stop()

    def put(self, piece: bytes) -> None:
        """Hand on a piece, waiting while the stage is busy; raise what the stage failed of."""
        try:
            self._pipe.put(piece)
        except Stopped:
            if self._error is None:  # `stop` was called
                raise
            raise self._error from None

    def stop(self) -> None:
        """End without what is still to be consumed; does not wait."""
        self._pipe.end()
        self._pipe.stop()

    def finish(self) -> None:
        """Wait until everything put so far is consumed; raise what went wrong."""
        self._pipe.end()
        self.join()
        if self._error is not None:
            raise self._error
