"""How long a client may take; looked at once a second for all connections together.

A timer a request would cost more than the request does. A connection notes until when the step
that it is in may last, and the watch ends those that are past it, each by its own scope.

Not here: what the steps are (`clipfs.content.connection`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

IDLE_S = 75
"""A connection that says nothing for this long is closed; clients keep theirs for less."""

HEAD_S = 20
"""From a head's first byte to its last."""

TRANSFER_S = 60
LEAST_BYTES_PER_S = 512 << 10
"""A body may take TRANSFER_S, and longer the larger it is: slower clients are cut off."""


def transfer_s(size: int) -> float:
    """How long a body of size bytes may take, in or out."""
    return TRANSFER_S + size / LEAST_BYTES_PER_S


class Patience:
    """How long the client of one connection is waited for."""

    __slots__ = ("_scope", "idle", "until")

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.idle = False
        self.until = 0.0
        self.for_request()

    def for_request(self) -> None:
        """Between two requests: given up after IDLE_S, or when the server ends."""
        self.idle = True
        self.until = trio.current_time() + IDLE_S

    def for_head(self) -> None:
        """A request has begun: more bytes of its head do not prolong this."""
        if self.idle:
            self.idle = False
            self.until = trio.current_time() + HEAD_S

    def for_body(self, size: int) -> None:
        """Bytes of a body are on their way, in or out."""
        self.idle = False
        self.until = trio.current_time() + transfer_s(size)

    def for_us(self) -> None:
        """The client has done its part: what the disk takes is not held against it."""
        self.idle = False
        self.until = math.inf

    def end(self) -> None:
        self._scope.cancel()


class Watch:
    """All connections' patience, in one worker."""

    def __init__(self) -> None:
        self.ending = False
        self._all: set[Patience] = set()

    @contextmanager
    def over_one(self) -> Iterator[Patience]:
        """The block is one connection's life; left at once when its patience ends."""
        with trio.CancelScope() as scope:
            patience = Patience(scope)
            self._all.add(patience)
            try:
                yield patience
            finally:
                self._all.discard(patience)

    async def run(self, also: Callable[[], None] = lambda: None) -> None:
        """also  called once a second, too"""
        while True:
            await trio.sleep(1)
            also()
            now = trio.current_time()
            for one in self._all:
                if one.until < now:
                    one.end()

    def begin_ending(self) -> None:
        """Connections between two requests are closed now, others after their request."""
        self.ending = True
        for one in self._all:
            if one.idle:
                one.end()
