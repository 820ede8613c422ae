"""The log that all modules write to: structlog's, loaded with the first line.

    from clipfs.log import log

A command that has nothing to say starts 30 ms sooner. Not here: how lines look
(`clipfs.cli.logs`).
"""

from collections.abc import Callable
from typing import Any


class Log:
    """structlog's logger, once it is asked for anything."""

    def __init__(self) -> None:
        self._set_up: Callable[[], None] | None = None

    def set_up_by(self, function: Callable[[], None]) -> None:
        """Have structlog set up by function, before the next line."""
        self._set_up = function
        for name in [name for name in vars(self) if not name.startswith("_")]:
            delattr(self, name)

    def __getattr__(self, name: str) -> Any:
        import structlog

        if self._set_up is not None:
            self._set_up()
            self._set_up = None
        method = getattr(structlog.get_logger().bind(), name)
        if structlog.is_configured():
            setattr(self, name, method)
        return method


log = Log()
