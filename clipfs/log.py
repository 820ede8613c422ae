"""The log that all modules write to: structlog's, loaded with the first line.

    from clipfs.log import log

A command that has nothing to say starts 30 ms sooner. Not here: how lines look
(`clipfs.cli.logs`).
"""

from collections.abc import Callable, Collection
from typing import Any


class Log:
    """structlog's logger, once it is asked for anything."""

    def __init__(self) -> None:
        self._set_up: Callable[[], None] | None = None
        self._unheard: Collection[str] = ()

    def set_up_by(self, function: Callable[[], None], *, unheard: Collection[str] = ()) -> None:
        """Have structlog set up by function, before the next line.

        unheard  levels of whose lines nothing comes
        """
        self._set_up, self._unheard = function, unheard
        for name in [name for name in vars(self) if not name.startswith("_")]:
            delattr(self, name)

    def __getattr__(self, name: str) -> Any:
        if name in self._unheard:
            setattr(self, name, _say_nothing)
            return _say_nothing
        import structlog

        if (set_up := self._set_up) is not None:  # another thread may ask just now
            set_up()
            self._set_up = None
        method = getattr(structlog.get_logger().bind(), name)
        if structlog.is_configured():
            setattr(self, name, method)
        return method


def _say_nothing(_event: str, **_fields: object) -> None:
    pass


log = Log()
