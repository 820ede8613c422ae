"""The commands: options in, one call, words or JSON out.

Border: nothing below prints; nothing here decides.
"""

import importlib
import sys


def _load_structlog() -> None:
    """structlog loads rich, for tracebacks in colour, which costs every command 60 ms."""
    if "rich" in sys.modules or "structlog" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # its import fails, as if it were absent
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]


_load_structlog()
