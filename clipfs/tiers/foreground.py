"""Who waits for a far tier now: reads go first, and what nobody waits for goes when it is quiet.

    with foreground.waiting():      # a read
        ...
    await foreground.quiet()        # work behind the readers' backs, before each of its requests

A request that is on its way is not taken back for a read that comes meanwhile: whoever makes
such requests keeps them few and small.

The servers of a node tell each other by `run/reading`: each holds an flock(2) on it with others
while a read of its own waits. Who looks tries to have it alone for a moment; a read that comes just
then goes unseen by the others, and on. Where there is no such file, a server sees its own reads.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import trio

from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.system.locks import lock_now

QUIET_S = 0.05
"""A reader that had to wait will soon ask for more: so long after it nothing is begun."""


class Foreground:
    """The readers of one server, and whether another server of the node has any."""

    def __init__(self, mine: int | None, look: int | None) -> None:
        """Descriptors of `run/reading`: one is locked for our reads, one to look by."""
        self._mine = mine
        self._look = look
        self._waiting = 0
        self._quiet_from = 0.0
        self._nobody_waits = trio.Event()

    @classmethod
    @contextmanager
    def open(cls, layout: Layout) -> Iterator[Self]:
        with ExitStack() as stack:
            mine: int | None = None
            look: int | None = None
            try:
                mine = _opened(layout.run / "reading", stack)
                look = _opened(layout.run / "reading", stack)
            except OSError as error:
                log.warning("reads of other servers are not seen", error=str(error))
            yield cls(mine, look)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a read that a far tier must answer."""
        self._waiting += 1
        if self._waiting == 1 and self._mine is not None:
            _share_now(self._mine)
        try:
            yield
        finally:
            self._waiting -= 1
            self._quiet_from = trio.current_time() + QUIET_S
            if not self._waiting:
                if self._mine is not None:
                    fcntl.flock(self._mine, fcntl.LOCK_UN)
                self._nobody_waits.set()
                self._nobody_waits = trio.Event()

    async def quiet(self) -> None:
        """Return once nobody waits, and nobody here has for QUIET_S; at once, if that is so."""
        while True:
            if self._waiting:
                await self._nobody_waits.wait()
            elif trio.current_time() < self._quiet_from:
                await trio.sleep_until(self._quiet_from)
            elif self._others_wait():
                self._quiet_from = trio.current_time() + QUIET_S
            else:
                return

    def _others_wait(self) -> bool:
        if self._look is None:
            return False
        if not lock_now(self._look):
            return True
        fcntl.flock(self._look, fcntl.LOCK_UN)
        return False


def _opened(path: Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def _share_now(fd: int) -> None:
    with suppress(OSError):  # somebody looks just now, or ENOLCK: a read waits for no lock
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
