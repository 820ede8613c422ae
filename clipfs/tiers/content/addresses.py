"""Who the replicas are: from URLs to addresses to the stable ids that replicas tell of themselves.

A name with several addresses is several replicas; addresses that tell the same id are one, and
one without an id counts by its address. Where there is one address, nobody is asked. Names and
ids are asked for behind the callers' backs, but for the first time: then callers wait, not long.

Not here: which replica a key belongs to (`clipfs.tiers.content.rendezvous`).
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import trio

from clipfs.log import log
from clipfs.tiers.content.connection import Endpoint
from clipfs.tiers.content.replica import Replica
from clipfs.tiers.content.store import ContentCacheDown

LEARN_S = 0.2
"""So long callers wait for all replicas to have answered."""

NOBODY_S = 0.5
"""And so long for one of them, if none has answered by then; later, for none at all."""

ASK_S = 2
"""A name, or a replica, that does not answer in this time is asked again another time."""

AGAIN_S = 60
"""Names are looked up again after this time, if anybody wants something."""

SOONEST_S = 3
"""And after this time if a replica has failed, or has not told its id."""

FORGET_S = 120
"""A replica is remembered so long after its address has left the name: it may be restarting."""


class Addresses:
    """The replicas by their ids, as far as they are known; their tasks run in `nursery`."""

    def __init__(
        self,
        urls: Sequence[str],
        connect: Callable[[Endpoint], Replica],
        nursery: trio.Nursery,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """on_failure  called for each name and each replica that gives no answer"""
        self._urls = urls
        self._connect = connect
        self._nursery = nursery
        self._on_failure = on_failure
        self._seen: dict[Endpoint, float] = {}  # when its name last had it
        self._left: set[Endpoint] = set()  # and has it no more
        self._replicas: dict[Endpoint, Replica] = {}
        self._ids: dict[Endpoint, str] = {}  # the last one to tell it comes last
        self._asked_at: float | None = None
        self._asking = False
        self._first = trio.Event()  # everybody has been asked
        self._somebody = trio.Event()  # has answered, or everybody has been asked
        self._by_id: Mapping[str, Replica] = {}
        self.failure = "no replica has answered yet"
        """What the last failure to find one was."""

        self.nobody_since: float | None = None
        """When it turned out that there is no replica at all; None: there are some."""

    async def known(self) -> Mapping[str, Replica]:
        """The replicas by their ids; those that have not told theirs yet are left out."""
        all_told = self._by_id and len(self._ids) == len(self._replicas)
        self.ask(AGAIN_S if all_told else SOONEST_S)
        if not self._first.is_set() and self._asked_at is not None:
            with trio.move_on_at(self._asked_at + LEARN_S):
                await self._first.wait()
            with trio.move_on_at(self._asked_at + NOBODY_S):
                await self._somebody.wait()
            self._end_of_first()
        return self._by_id

    def ask(self, after_s: float = SOONEST_S) -> None:
        """Look names up and ask for ids, unless that was done less than after_s ago."""
        now = trio.current_time()
        if self._asking or (self._asked_at is not None and now < self._asked_at + after_s):
            return
        self._asking, self._asked_at = True, now
        self._nursery.start_soon(self._ask)

    def has_left(self, replica: Replica) -> bool:
        """Whether its address has left its name: it restarts elsewhere, or does not come back."""
        return replica.endpoint in self._left

    def close(self) -> None:
        for replica in self._replicas.values():
            replica.close()

    async def _ask(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for url in self._urls:
                    nursery.start_soon(self._look_up, url)
            self._forget()
            if len(self._replicas) == 1:
                (endpoint,) = self._replicas
                self._learn(endpoint, "")
            else:
                async with trio.open_nursery() as nursery:
                    for endpoint in self._replicas:
                        nursery.start_soon(self._ask_id, endpoint)
        finally:
            self._asking = False
            self._end_of_first()

    def _end_of_first(self) -> None:
        self._first.set()
        self._somebody.set()
        if not self._by_id and self.nobody_since is None:
            self.nobody_since = self._asked_at
            log.warning("content cache unavailable", urls=self._urls, error=self.failure)

    async def _look_up(self, url: str) -> None:
        try:
            with trio.fail_after(ASK_S):
                endpoints = await endpoints_of(url)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            self.failure = f"{url}: {str(error) or 'its name is not answered for'}"
            self._on_failure()
            return
        names = {replace(one, address="") for one in endpoints}
        self._left |= {one for one in self._seen if replace(one, address="") in names}
        self._left -= {*endpoints}
        for endpoint in endpoints:
            self._seen[endpoint] = trio.current_time()
            if endpoint not in self._replicas:
                self._replicas[endpoint] = self._connect(endpoint)

    async def _ask_id(self, endpoint: Endpoint) -> None:
        try:
            with trio.fail_after(ASK_S):
                told = await self._replicas[endpoint].ask_id()
        except (ContentCacheDown, trio.TooSlowError) as error:
            self.failure = f"{endpoint}: {str(error) or 'no answer in time'}"
            self._on_failure()
            return
        self._learn(endpoint, told)

    def _learn(self, endpoint: Endpoint, told: str) -> None:
        if self.nobody_since is not None:
            log.info("content cache is back", replica=str(endpoint))
        self.nobody_since = None
        self._somebody.set()
        self._ids.pop(endpoint, None)
        self._ids[endpoint] = told or str(endpoint)
        self._by_id = {self._ids[one]: self._replicas[one] for one in self._ids}

    def _forget(self) -> None:
        now = trio.current_time()
        gone = [one for one, seen in self._seen.items() if now - seen > FORGET_S]
        if len(gone) == len(self._seen):
            return  # it is the name that fails, all the time
        for endpoint in gone:
            self._replicas.pop(endpoint).close()
            self._ids.pop(endpoint, None)
            del self._seen[endpoint]
            self._left.discard(endpoint)
        self._by_id = {self._ids[one]: self._replicas[one] for one in self._ids}


async def endpoints_of(url: str) -> list[Endpoint]:
    """All addresses that the host of url has now; OSError if it has none.

    url  http(s)://host[:port]
    """
    parts = urlsplit(url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
    return [Endpoint(host=host, address=one, port=port, tls=tls) for one in addresses]
