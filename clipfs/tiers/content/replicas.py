"""The content cache as its clients see it: all replicas as one `ContentStore`.

An object is stored in both of its copies, and read from one (`clipfs.tiers.content.reading`). A
claim is kept by the first two in its key's order that answer (`clipfs.tiers.content.claiming`).

Not here: which replicas have a key's copies (`clipfs.tiers.content.copies`); time-outs of one
exchange (`clipfs.tiers.content.replica`).
"""

import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Self

import trio

from clipfs.image.tls import client_context
from clipfs.tiers.content.addresses import Addresses
from clipfs.tiers.content.claiming import claim_at, release_at
from clipfs.tiers.content.connection import SMALL_BODY_BYTES, Endpoint
from clipfs.tiers.content.copies import COPIES, Copies
from clipfs.tiers.content.exchange import AT_LEISURE, Hurry
from clipfs.tiers.content.patience import Patience
from clipfs.tiers.content.reading import Reader
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


class Replicas:
    """Open it with `Replicas.open`."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._copies = Copies(addresses)
        self._patience = Patience()
        self._reader = Reader(self._copies, self._patience)
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
        return await self._reader.get(key, part=part, dear=dear, besides=besides)

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
            claim = await self._claim(key, holder, progress, self._reader.share)
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

    def _check_may_store(self) -> None:
        if not self._copies.may_store:
            raise MayNotStore("the token may only read")
