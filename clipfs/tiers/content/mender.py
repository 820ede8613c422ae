"""Mends the content cache behind the readers' backs: few things at a time, or not at all.

    mender.soon(key, mend)     # returns at once; mend is awaited in the nursery, or dropped

What is mended is somebody else's: all nodes see the same fault at the same moment, so each waits
for a time of its own first, and the first one's work is done for the others.

Not here: what is wrong and what is right (`clipfs.tiers.content_cache`).
"""

import random
from collections.abc import Awaitable, Callable

import trio

from clipfs.log import log
from clipfs.tiers.content.store import ContentCacheDown, ContentStore

SPREAD_S = 1
MAX_WAITING = 64
"""More are dropped: who reads there next meets the fault again."""


class Mender:
    """Mends one thing at a time; with a token that may only read, nothing."""

    def __init__(self, cache: ContentStore, nursery: trio.Nursery) -> None:
        self._cache = cache
        self._nursery = nursery
        self._one = trio.CapacityLimiter(1)
        self._waiting: set[str] = set()
        self._idle = trio.Event()

    def soon(self, key: str, mend: Callable[[], Awaitable[None]], *, spread: bool = True) -> None:
        """Never blocks and never fails. The same key is mended once at a time.

        spread  others see the same; else there is no hurry to lose
        """
        if key in self._waiting or len(self._waiting) >= MAX_WAITING or not self._cache.may_store:
            return
        self._waiting.add(key)
        self._nursery.start_soon(self._run, key, mend, spread)

    async def drain(self) -> None:
        """Return when nothing waits to be mended."""
        while self._waiting:
            await self._idle.wait()

    async def _run(self, key: str, mend: Callable[[], Awaitable[None]], spread: bool) -> None:
        try:
            if spread:
                await trio.sleep(random.uniform(0, SPREAD_S))
            async with self._one:
                await mend()
        except ContentCacheDown as error:
            log.warning("content cache was not mended", key=key, error=str(error))
        except Exception:  # a bug, which costs no reader anything
            log.exception("content cache was not mended", key=key)
        finally:
            self._waiting.discard(key)
            if not self._waiting:
                self._idle.set()
                self._idle = trio.Event()
