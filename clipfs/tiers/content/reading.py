"""Reads an object from one of its copies, and knows how long to wait for which.

From the first, or from the second if the first one misses, fails or was found to be wrong. Where
a miss is dear, replicas that restart are waited for; else look-ups share one `Patience`.

Not here: which replicas have a key's copies (`clipfs.tiers.content.copies`); time-outs of one
exchange (`clipfs.tiers.content.replica`).
"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import trio

from clipfs.tiers.content.answer import Pace
from clipfs.tiers.content.breaker import SOON_S
from clipfs.tiers.content.copies import Copies
from clipfs.tiers.content.exchange import ANSWER_TIMEOUT_S, Hurry
from clipfs.tiers.content.patience import WORTH_BYTES_PER_S, Patience
from clipfs.tiers.content.store import ContentCacheDown, Found, worst

FIRST_ANSWER_S = 2
"""So long a reader waits for one replica where another has the same object."""

RESTART_S = 5
"""A replica may take so long to restart, before what it has is fetched from further away."""


class Reader:
    """Of all objects; look-ups and claims share its `patience`."""

    def __init__(self, copies: Copies, patience: Patience) -> None:
        self._copies = copies
        self._patience = patience

    async def get(
        self, key: str, *, part: range | None, dear: bool, besides: Collection[str]
    ) -> Found | None:
        """As `ContentStore.get`."""
        if dear:
            return await self._get_patiently(key, part, besides)
        with self._patience.waits() as waiting:
            found, _ = await self._get(key, part, besides, self.share)
            waiting.received = len(found.data) if found else 0
        return found

    async def _get_patiently(
        self, key: str, part: range | None, besides: Collection[str]
    ) -> Found | None:
        """Wait for replicas that have been down for less than RESTART_S, if no other has it."""
        came_back = others_lack_it = False
        last = math.inf  # when this caller has waited long enough, whatever others are told
        while True:
            until = await self._back_until(key, besides, others_lack_it)

            def hurry(others: int, until: float | None = until) -> Hurry:
                answer_s = FIRST_ANSWER_S if others else ANSWER_TIMEOUT_S
                if until is None or until <= trio.current_time():
                    return Hurry(answer_s=answer_s)
                return Hurry(answer_s=answer_s, by=until, soon=True)

            down: ContentCacheDown | None = None
            try:
                found, may_be_there = await self._get(key, part, besides, hurry)
                if found is not None or not may_be_there:
                    return found
                others_lack_it = True
            except ContentCacheDown as error:
                down = error
            until = await self._back_until(key, besides, others_lack_it)
            last = min(last, trio.current_time() + RESTART_S)
            if until is None and not came_back:  # another reader has found one that is up
                came_back = True
                continue
            if until is None or trio.current_time() >= min(until, last):
                if down is not None:
                    raise down
                return None
            await trio.sleep(SOON_S)

    async def _back_until(
        self, key: str, besides: Collection[str], others_lack_it: bool
    ) -> float | None:
        """By when those who may have key are back, if all are down and only restart.

        others_lack_it  those that are up do not count
        """
        known = await self._copies.addresses.known()
        copies = await self._copies.of(key, besides=besides) if known else []
        since = [one.breaker.down_since for one in copies]
        if not known:
            since.append(self._copies.addresses.nobody_since)
        down = [one for one in since if one is not None]
        if not down or (len(down) < len(since) and not others_lack_it):
            return None
        return max(down) + RESTART_S

    async def _get(
        self,
        key: str,
        part: range | None,
        besides: Collection[str],
        hurry: Callable[[int], Hurry],
    ) -> tuple[Found | None, bool]:
        """The object; if there is none, whether it may be in a copy that gave no answer.

        hurry   for a replica, by how many others are to be asked after it
        Raises  ContentCacheDown if no copy gave one
        """
        copies = await self._copies.of(key, besides=besides)
        failures: list[ContentCacheDown] = []
        is_alone = False
        for others, replica in zip(reversed(range(len(copies))), copies, strict=True):
            try:
                found = await replica.get(key, part=part, hurry=hurry(others))
            except ContentCacheDown as error:
                failures.append(error)
                self._copies.addresses.ask()
                continue
            if found is not None:
                return replace(found, copy=str(replica.endpoint), is_alone=is_alone), False
            is_alone = True
        if failures and len(failures) == len(copies):
            raise worst(failures)
        return None, bool(failures)

    def share(self, others: int) -> Hurry:
        """A part of the time that look-ups have left."""
        left_s = self._patience.left_s
        if not left_s:
            raise ContentCacheDown("skipped: look-ups have waited for it long enough")
        now = trio.current_time()
        pace = Pace(least_bytes_per_s=WORTH_BYTES_PER_S, end=now + self._patience.longest_s)
        return Hurry(by=now + left_s / (1 + others), pace=pace)
