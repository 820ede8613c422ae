"""How long a client may take; checked once a second for all connections together.

A timer a request would cost more than the request does. A connection sets its deadline anew at
each step, and the watch cancels those that are past theirs, each by its own scope.

Not here: what the steps are (`clipfs.content.connection`).
"""

import math
from collections.abc import Iterator
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


class Deadline:
    """Until when the client of one connection is waited for.

    idle          between two requests
    has_a_request False, too, while the head of one arrives: whoever that is has shown no token
    """

    __slots__ = ("_scope", "has_a_request", "idle", "until")

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.idle = False
        self.has_a_request = False
        self.until = 0.0
        self.for_request()

    def for_request(self) -> None:
        """Between two requests: closed after IDLE_S, or when the server ends."""
        self.idle = True
        self.has_a_request = False
        self.until = trio.current_time() + IDLE_S

    def for_head(self) -> None:
        """A request has begun; further bytes of its head do not extend this."""
        if self.idle:
            self.idle = False
            self.until = trio.current_time() + HEAD_S

    def for_body(self, size: int) -> None:
        """Bytes of a body are on their way, in or out."""
        self.idle = False
        self.has_a_request = True
        self.until = trio.current_time() + transfer_s(size)

    def suspend(self) -> None:
        """None: it is the server that the client waits for."""
        self.idle = False
        self.has_a_request = True
        self.until = math.inf

    def expire(self) -> None:
        self._scope.cancel()


class Watch:
    """The deadlines of all connections of one worker."""

    def __init__(self) -> None:
        self.draining = False
        self._all: set[Deadline] = set()

    @contextmanager
    def connection(self) -> Iterator[Deadline]:
        """The block serves one connection, and is cancelled once that is past its deadline."""
        with trio.CancelScope() as scope:
            deadline = Deadline(scope)
            self._all.add(deadline)
            try:
                yield deadline
            finally:
                self._all.discard(deadline)

    async def run(self) -> None:
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            for one in self._all:
                if one.until < now:
                    one.expire()

    def make_room(self) -> bool:
        """Close the connection without a request that would be closed first; False: all have one.

        Otherwise whoever opens connections and says nothing would shut all others out.
        """
        without = [one for one in self._all if not one.has_a_request and one.until]
        if not without:
            return False
        first = min(without, key=lambda one: one.until)
        first.until = 0
        first.expire()
        return True

    def drain(self) -> None:
        """Close idle connections now, and the others after their request."""
        self.draining = True
        for one in self._all:
            if one.idle:
                one.expire()
