"""The content cache as its clients see it: all replicas as one `ContentStore`.

An object is stored in both of its copies, and read from the first, or from the second if the first
one misses, fails or was found to be wrong. A claim is kept by the first two in its key's order that
answer (`clipfs.tiers.content.claiming`).

Not here: which replicas have a key's copies (`clipfs.tiers.content.copies`); time-outs of one
exchange (`clipfs.tiers.content.replica`).
"""

import math
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Self

import trio

from clipfs.image.tls import client_context
from clipfs.tiers.content.addresses import Addresses
from clipfs.tiers.content.answer import Pace
from clipfs.tiers.content.breaker import SOON_S
from clipfs.tiers.content.claiming import claim_at, release_at
from clipfs.tiers.content.connection import SMALL_BODY_BYTES, Endpoint
from clipfs.tiers.content.copies import COPIES, Copies
from clipfs.tiers.content.exchange import ANSWER_TIMEOUT_S, AT_LEISURE, Hurry
from clipfs.tiers.content.patience import WORTH_BYTES_PER_S, Patience
from clipfs.tiers.content.replica import Replica, content_digest
from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    ContentRefused,
    Found,
    MayNotStore,
    Progress,
    worst,
)

FIRST_ANSWER_S = 2
"""So long a reader waits for one replica where another has the same object."""

RESTART_S = 5
"""A replica may take so long to restart, before what it has is fetched from further away."""


class Replicas:
    """Open it with `Replicas.open`."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._copies = Copies(addresses)
        self._patience = Patience()
        self._claimed: set[str] = set()  # keys of claims that are renewed, or waited for

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        urls: Sequence[str],
        *,
        token: str | None,
        ca_pem: str = "",
        on_failure: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Self]:
        """urls        http(s)://host[:port], of one content cache
        ca_pem      CAs that replicas are trusted by, beside the node's own
        on_failure  called for each request without a usable answer, whoever else has answered
        """
        context: ssl.SSLContext | None = None
        if any(url.startswith("https:") for url in urls):
            context = client_context(ca_pem)

        def connect(endpoint: Endpoint) -> Replica:
            tls = context if endpoint.tls else None
            return Replica(endpoint, token=token, tls=tls, on_failure=on_failure)

        async with trio.open_nursery() as nursery:
            addresses = Addresses(urls, connect, nursery, on_failure)
            try:
                yield cls(addresses)
            finally:
                nursery.cancel_scope.cancel()
                addresses.close()

    @property
    def may_store(self) -> bool:
        return self._copies.may_store

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        if probes:
            await self._copies.probe(key, besides=besides)
        if dear:
            return await self._get_patiently(key, part, besides)
        with self._patience.waits() as waiting:
            found, _ = await self._get(key, part, besides, self._share)
            waiting.received = len(found.data) if found else 0
        return found

    async def lacking(self, key: str) -> list[str]:
        """Those that do not answer count as lacking it where another one does."""
        copies = await self._copies.of(key)
        lack: list[str] = []
        failures: dict[str, ContentCacheDown] = {}
        for replica in copies:
            try:
                if await replica.get(key, part=range(1)) is None:
                    lack.append(str(replica.endpoint))
            except ContentCacheDown as error:
                failures[str(replica.endpoint)] = error
        if len(failures) == len(copies):
            raise worst(list(failures.values()))
        return [*lack, *failures] if lack else []

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        copies: Collection[str] | None = None,
    ) -> None:
        self._check_may_store()
        if len(data) > SMALL_BODY_BYTES:
            digest = await trio.to_thread.run_sync(content_digest, data)
        else:
            digest = content_digest(data)

        async def put(replica: Replica) -> None:
            try:
                await replica.put(key, data, replaces=replaces, digest=digest)
            except MayNotStore:
                raise
            except ContentRefused:
                if replaces is None:
                    raise
                await replica.put(key, data, digest=digest)  # where nothing stands

        await self._copies.change(key, put, only=copies)

    async def delete(self, key: str, *, etag: str, copies: Collection[str] | None = None) -> None:
        self._check_may_store()
        await self._copies.change(key, lambda one: one.delete(key, etag=etag), only=copies)

    async def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        self._check_may_store()
        if key in self._claimed:  # no look-up: who asks again renews it, or waits for its holder
            return await self._claim(key, holder, progress, lambda _: AT_LEISURE)
        with self._patience.waits() as waiting:
            claim = await self._claim(key, holder, progress, self._share)
            waiting.received, waiting.is_no_delay = 0, claim.holder != holder
        self._claimed.add(key)
        return claim

    async def release(self, key: str, holder: str) -> None:
        self._claimed.discard(key)
        await release_at(await self._copies.order(key), COPIES, key, holder)

    async def _claim(
        self, key: str, holder: str, progress: Progress, hurry: Callable[[int], Hurry]
    ) -> Claim:
        order = await self._copies.order(key)
        try:
            return await claim_at(order, COPIES, key, holder, progress, hurry=hurry)
        except ContentRefused:
            self._copies.told_by(order)
            raise
        finally:
            if any(replica.breaker.down_since is not None for replica in order):
                self._addresses.ask()

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
        known = await self._addresses.known()
        copies = await self._copies.of(key, besides=besides) if known else []
        since = [one.breaker.down_since for one in copies]
        if not known:
            since.append(self._addresses.nobody_since)
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
                self._addresses.ask()
                continue
            if found is not None:
                return replace(found, copy=str(replica.endpoint), is_alone=is_alone), False
            is_alone = True
        if failures and len(failures) == len(copies):
            raise worst(failures)
        return None, bool(failures)

    def _share(self, others: int) -> Hurry:
        """A part of the time that look-ups have left."""
        left_s = self._patience.left_s
        if not left_s:
            raise ContentCacheDown("skipped: look-ups have waited for it long enough")
        now = trio.current_time()
        pace = Pace(least_bytes_per_s=WORTH_BYTES_PER_S, end=now + self._patience.longest_s)
        return Hurry(by=now + left_s / (1 + others), pace=pace)

    def _check_may_store(self) -> None:
        if not self._copies.may_store:
            raise MayNotStore("the token may only read")
