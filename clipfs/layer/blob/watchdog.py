"""Bounds a block that waits for a peer in several steps, each of which has its own time-out only.

    with at_most(stall_s, end=lambda: shutdown(connection)):
        response = connection.getresponse()

Not here: a peer that is slow over many blocks (`clipfs.layer.blob.pace`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def at_most(limit_s: float, *, end: Callable[[], None]) -> Iterator[None]:
    """Call end from another thread after limit_s, which makes the block return or raise.

    Raises  TimeoutError then, whatever the block returned or raised: it may be half of it
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        end()

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    late = f"timed out after {limit_s:g} s"
    try:
        yield
    except Exception as error:
        if expired.is_set():
            raise TimeoutError(late) from error
        raise
    finally:
        timer.cancel()
    if expired.is_set():
        raise TimeoutError(late)
