"""The one place in the tests that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(probe: Callable[[], T | None], within_s: float = 60) -> T:
    """Call probe until it answers something true; TimeoutError after within_s."""
    end = time.monotonic() + within_s
    while not (found := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"{probe} said nothing within {within_s} s")
        time.sleep(0.02)
    return found
