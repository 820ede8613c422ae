"""The copies of an object: which replicas have them, and what one failure among them means.

An object has two copies where there are two replicas or more: the two that its key belongs to
first. Nothing is asked of a copy here; callers say what, and get the worst of what went wrong.

Not here: what is asked (`clipfs.tiers.content.replicas`); who the replicas are
(`clipfs.tiers.content.addresses`).
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress

import trio

from clipfs.log import log
from clipfs.tiers.content.addresses import Addresses
from clipfs.tiers.content.connection import Endpoint
from clipfs.tiers.content.rendezvous import in_order
from clipfs.tiers.content.replica import Replica
from clipfs.tiers.content.store import ContentCacheDown, worst

COPIES = 2


class Copies:
    """Finds and asks the replicas of `addresses` by key. A copy is named by its endpoint."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.may_store = True
        self._one_less: set[Endpoint] = set()  # of whose lost copies a warning has told

    async def of(
        self, key: str, *, only: Collection[str] | None = None, besides: Collection[str] = ()
    ) -> list[Replica]:
        """The replicas that should have the object, the first one first.

        One whose address has left its name comes last: it may have gone for good, and with the one
        that came in its stead, empty and under another id, would hide the one that has the object.
        Raises  ContentCacheDown if no replica is known
        """
        copies = sorted(await self.order(key), key=self.addresses.has_left)[:COPIES]
        return [
            one
            for one in copies
            if (only is None or str(one.endpoint) in only) and str(one.endpoint) not in besides
        ]

    async def probe(self, key: str, *, besides: Collection[str] = ()) -> None:
        """Find out which copies that were down are back; never fails."""
        with suppress(ContentCacheDown):
            copies = await self.of(key, besides=besides)
            async with trio.open_nursery() as nursery:
                for replica in copies:
                    nursery.start_soon(replica.probe, key)

    async def change(
        self,
        key: str,
        change: Callable[[Replica], Awaitable[None]],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Change all copies; one that fails is a warning, unless the others fail too."""
        copies = await self.of(key, only=only)
        failures: dict[Endpoint, ContentCacheDown] = {}

        async def run(replica: Replica) -> None:
            try:
                await change(replica)
                self._one_less.discard(replica.endpoint)
            except ContentCacheDown as error:
                failures[replica.endpoint] = error

        async with trio.open_nursery() as nursery:
            for replica in copies:
                nursery.start_soon(run, replica)
        self.told_by(copies)
        if failures and len(failures) == len(copies):
            self.addresses.ask()
            raise worst(list(failures.values()))
        for endpoint, error in failures.items():
            self.addresses.ask()
            if endpoint not in self._one_less:
                log.warning(
                    "object has one copy less", key=key, replica=str(endpoint), error=str(error)
                )
            self._one_less.add(endpoint)

    def told_by(self, replicas: Sequence[Replica]) -> None:
        """Remember it if one of those that were asked has refused to store."""
        self.may_store = self.may_store and all(replica.may_store for replica in replicas)

    async def order(self, key: str) -> list[Replica]:
        """All replicas that are known, from the one that key belongs to first.

        Raises  ContentCacheDown if there is none
        """
        known = await self.addresses.known()
        if not known:
            raise ContentCacheDown(self.addresses.failure)
        return [known[one] for one in in_order(key, known)]
