"""Keeps what the node has cached within the administrator's limits, beside the calls.

Room is made before an image's mount is launched, soon after one has come or gone, and now and
then. A collection that fails is a warning: it never fails a publish.
"""

import threading
from contextlib import AbstractContextManager

from clipfs import errors
from clipfs.cache.collect import collect
from clipfs.cache.limits import Limits
from clipfs.layer.layout import Layout
from clipfs.log import log
from csi.periodic import Periodic

EVERY_S = 60
"""Reads fill layers without a call; this is how soon the limits hold again after them."""


class Collector:
    """Collects for one driver; other processes may collect on the same root meanwhile.

    kept_bytes  what the cache held when it was last looked at; None before that
    """

    def __init__(self, layout: Layout, limits: Limits) -> None:
        self._layout = layout
        self._limits = limits
        self._one = threading.Lock()
        self._steps = Periodic("collector", self._step)
        self.kept_bytes: int | None = None

    def running(self) -> AbstractContextManager[None]:
        """Collect in a thread of its own while the block runs."""
        return self._steps.running()

    def make_room(self) -> None:
        """Collect now, if there is a limit; returns when that is done. Never fails."""
        if self._limits:
            self._collect()

    def soon(self) -> None:
        """Have the thread collect, and go on."""
        self._steps.soon()

    def _step(self) -> float:
        self._collect()
        return EVERY_S

    def _collect(self) -> None:
        try:
            with self._one:
                found = collect(self._layout, self._limits)
        except (errors.ClipError, OSError) as error:
            log.warning("collecting failed", error=str(error))
        except Exception:  # a bug here costs room, not volumes
            log.exception("collecting failed, this is a bug")
        else:
            self.kept_bytes = found.kept_bytes
            if found.excess_bytes:
                log.warning("over the limit, but all is in use", bytes=found.excess_bytes)
