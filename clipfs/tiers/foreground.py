"""Who waits for a far tier now: reads go first, and what nobody waits for goes when it is quiet.

    with foreground.waiting():      # a read
        ...
    await foreground.quiet()        # work behind the readers' backs, before each of its requests

Decisions only, on trio's clock. A request that is on its way is not taken back for a read that
comes meanwhile: whoever makes such requests keeps them few and small.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

QUIET_S = 0.05
"""A reader that had to wait will soon ask for more: so long after it nothing is begun."""


class Foreground:
    """The readers of one process."""

    def __init__(self) -> None:
        self._waiting = 0
        self._quiet_from = 0.0
        self._nobody_waits = trio.Event()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a read that a far tier must answer."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._quiet_from = trio.current_time() + QUIET_S
            if not self._waiting:
                self._nobody_waits.set()
                self._nobody_waits = trio.Event()

    async def quiet(self) -> None:
        """Return once nobody waits, and nobody has for QUIET_S; at once, if that is so."""
        while True:
            if self._waiting:
                await self._nobody_waits.wait()
            elif trio.current_time() < self._quiet_from:
                await trio.sleep_until(self._quiet_from)
            else:
                return
