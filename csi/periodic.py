"""A step that a thread of its own takes again and again, while a block runs.

    steps = Periodic("collector", step)
    with steps.running():
        ...
        steps.soon()

Not here: what a step does, and which of its failures are to be expected.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipfs.log import log

AFTER_A_BUG_S = 60
"""A step that fails once may fail each time: it must not fill the log."""


class Periodic:
    """One step, by name; any thread may ask for it."""

    def __init__(
        self, name: str, step: Callable[[], float | None], *, end_s: float | None = None
    ) -> None:
        """step  gives the seconds until it is to be taken again; None: not before `soon`
        end_s  how long the end waits for a step under way; None: as long as that takes
        """
        self._name = name
        self._step = step
        self._end_s = end_s
        self._wake = threading.Event()
        self._ending = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """The first step is taken at once, the last one before the block ends."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending = True
            self._wake.set()
            thread.join(self._end_s)

    def soon(self) -> None:
        """Have the next step taken now, and go on."""
        self._wake.set()

    def _run(self) -> None:
        while not self._ending:
            wait_s = self._taken()
            self._wake.wait(wait_s)
            self._wake.clear()  # before the look at the end, which may have been told meanwhile

    def _taken(self) -> float | None:
        try:
            return self._step()
        except Exception:
            log.exception("a thread's step failed, this is a bug", thread=self._name)
            return AFTER_A_BUG_S
