"""Reads sealed indexes and origin records from the content cache: from the first copy that opens.

Wrong copies, those of an older key and missing ones are put back from it behind the reader's back.

Not here: what they are, and how they are stored first (`clipfs.tiers.derived`).
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import trio

from clipfs.log import log
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.store import ContentCacheDown, ContentStore, Found
from clipfs.tiers.derived import Derived

T = TypeVar("T")


class DerivedReader:
    """Reads what is derived; with a mender it puts back what is wrong."""

    def __init__(
        self, cache: ContentStore, mender: Mender | None, on_unverified: Callable[[], None]
    ) -> None:
        """on_unverified  is called for each answer that is not what it should be"""
        self._cache = cache
        self._mender = mender
        self._on_unverified = on_unverified

    async def load(self, one: Derived[T]) -> tuple[T, int] | None:
        """What the first copy says that opens, and how many bytes that has; None is a miss."""
        wrong: list[Found] = []
        while found := await found_in(self._cache, one.key, one.part, besides=wrong):
            opened = one.open(found.data)
            if opened is not None:
                said, renew = opened
                self._mend(one, said, [*wrong, *([found] if renew else [])], found.is_alone)
                return said, len(found.data)
            self._on_unverified()
            log.warning(
                f"{one.what} from the content cache does not verify",
                layer=one.layer.digest,
                cache_key=one.layer.cache_key,
            )
            wrong.append(found)
        return None

    def _mend(self, one: Derived[T], said: T, stale: Sequence[Found], is_alone: bool) -> None:
        etags = [copy.etag for copy in stale if copy.etag]
        if self._mender is not None and (etags or is_alone):
            self._mender.soon(one.key, partial(self._put, one, said, etags), spread=False)

    async def _put(self, one: Derived[T], said: T, stale: Sequence[str]) -> None:
        """Store it in the place of those that stale names, or where there is none."""
        sealed = await trio.to_thread.run_sync(partial(one.seal, said))
        for etag in stale:
            await self._cache.put(one.key, sealed, replaces=etag)
        if not stale and (lack := await self._cache.lacking(one.key)):
            await self._cache.put(one.key, sealed, copies=lack)
        log.info(f"{one.what} was stored again", key=one.key, replaced=len(stale))


async def found_in(
    cache: ContentStore,
    key: str,
    part: range | None,
    *,
    besides: Collection[Found],
    dear: bool = False,
    probes: bool = False,
) -> Found | None:
    """As the store's `get`, but a store that gives no answer is a miss.

    besides  copies that were wrong
    """
    passed_over = {one.copy for one in besides}
    try:
        found = await cache.get(key, part=part, dear=dear, probes=probes, besides=passed_over)
    except ContentCacheDown as down:
        log.debug("content cache gave no answer", key=key, error=str(down))
        return None
    return None if found is None or found.copy in passed_over else found
