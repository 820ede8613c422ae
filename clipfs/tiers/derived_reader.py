"""Reads sealed indexes and origin records from the content cache: from the first copy that opens.

Wrong copies, those of an older key and missing ones are put back from it behind the reader's back.
What is large is read a few at a time, lest a store that lies fills the memory of an image's mount.

Not here: what they are, and how they are stored first (`clipfs.tiers.derived`).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import trio

from clipfs.log import log
from clipfs.tiers.content.mender import Mender
from clipfs.tiers.content.store import ContentCacheDown, ContentStore, Found
from clipfs.tiers.derived import Derived

T = TypeVar("T")

LARGE_AT_ONCE = 4
"""Objects of any size in memory: 256 MiB, where an image has layers without number."""


@dataclass(frozen=True, slots=True)
class _Opened(Generic[T]):
    """What the copy `found` says, in so many bytes; stale: copies to be put back, as that may be.

    Of no copy the bytes are kept.
    """

    said: T
    found: Found
    received: int
    stale: Sequence[Found]


class DerivedReader:
    """Reads what is derived; with a mender it puts back what is wrong."""

    def __init__(
        self, cache: ContentStore, mender: Mender | None, on_unverified: Callable[[], None]
    ) -> None:
        """on_unverified  is called for each object that is not what it should be, once"""
        self._cache = cache
        self._mender = mender
        self._on_unverified = on_unverified
        self._few = trio.CapacityLimiter(LARGE_AT_ONCE)
        self._told: set[tuple[str, str, str]] = set()  # key, copy and ETag of what was wrong

    async def load(self, one: Derived[T]) -> tuple[T, int] | None:
        """What the first copy says that opens, and how many bytes that has; None is a miss."""
        opened = await self._opened(one, dear=False)
        if opened is None:
            return None
        self._mend(one, opened)
        return opened.said, opened.received

    async def look(self, one: Derived[T], *, dear: bool) -> tuple[T, int] | None:
        """As load, for what another node is about to store; what is wrong is that one's to mend.

        dear  as of `ContentStore.get`
        """
        opened = await self._opened(one, dear=dear)
        return None if opened is None else (opened.said, opened.received)

    async def _opened(self, one: Derived[T], *, dear: bool) -> _Opened[T] | None:
        if one.part is not None:
            return await self._first_right(one, dear)
        async with self._few:
            return await self._first_right(one, dear)

    async def _first_right(self, one: Derived[T], dear: bool) -> _Opened[T] | None:
        wrong: list[Found] = []
        while found := await found_in(self._cache, one.key, one.part, besides=wrong, dear=dear):
            opened, received = one.open(found.data), len(found.data)
            found = replace(found, data=bytearray())
            if opened is not None:
                said, renew = opened
                return _Opened(said, found, received, [*wrong, *([found] if renew else [])])
            self._tell(one, found)
            wrong.append(found)
        return None

    def _tell(self, one: Derived[T], wrong: Found) -> None:
        """Of what is looked at again and again, once."""
        lie = (one.key, wrong.copy, wrong.etag)
        if lie in self._told:
            return
        self._told.add(lie)
        self._on_unverified()
        log.warning(f"{one.what} from the content cache does not verify", **one.of)

    def _mend(self, one: Derived[T], opened: _Opened[T]) -> None:
        etags = [copy.etag for copy in opened.stale if copy.etag]
        if self._mender is not None and (etags or opened.found.is_alone):
            mend = partial(self._put, one, opened.said, etags)
            self._mender.soon(one.key, mend, spread=False)

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
