"""Tier 2 in an object store that is there already: S3, GCS or Azure Blob instead of replicas.

obstore's calls run in threads, of which there are at most MAX_CALLS; a caller that goes away
does not wait for its own. Whatever goes wrong is `ContentCacheDown`, behind a `Breaker`. A
store that did not answer last is first asked something small, and the look-ups of a mount share
one `Patience`: one that is dead or slow costs a mount less than a second.

A delete by ETag compares, and then deletes: object stores delete without conditions. What is
stored in between, right bytes in the place of wrong ones, is lost with them: a miss.

Not here: requests and their errors (`clipfs.tiers.content.bucket`); writes that depend on what
stands there (`clipfs.tiers.content.conditional`); claims (`clipfs.tiers.content.claims`).
"""

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

import trio

from clipfs.tiers.content.breaker import SOON_S, Breaker
from clipfs.tiers.content.bucket import (
    TRANSFER_TIMEOUT_S,
    Bucket,
    NoAnswer,
    NoConditions,
    NotAllowed,
    Odd,
)
from clipfs.tiers.content.claims import Claims
from clipfs.tiers.content.conditional import Conditions
from clipfs.tiers.content.patience import Patience
from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    Found,
    MayNotStore,
    Progress,
)

CHECK_S = 0.8
"""For a store that did not answer last: a connection, TLS and one small answer."""

RESTART_S = 5
"""A store may be away for so long, before what it has is fetched from further away."""

LOOK_AFTER_S = 0.2
"""SeaweedFS keeps one of those who race for a key waiting for a second: that is not lost so."""

MAX_CALLS = 16
_ONLY = "the only copy"
T = TypeVar("T")


class ObjectStore:
    """A `ContentStore` in one bucket; open it with `clipfs.tiers.content.opening`."""

    def __init__(
        self,
        bucket: Bucket,
        *,
        url: str,
        claim_lapses_s: float,
        patience: Patience,
        on_failure: Callable[[], None],
    ) -> None:
        self._bucket = bucket
        self._conditions = Conditions(bucket)
        self._claims = Claims(bucket, self._conditions, lapses_s=claim_lapses_s)
        self._limit = trio.CapacityLimiter(MAX_CALLS)
        self._breaker = Breaker(url, on_failure=on_failure)
        self._patience = patience
        self._heard = False
        self._may_store = True

    @property
    def may_store(self) -> bool:
        return self._may_store

    async def check(self) -> None:
        """Ask it something small; what is wrong with it is a warning."""
        with suppress(ContentCacheDown), self._patience.waits() as waiting:
            await self._ask(lambda: None, within_s=self._left_s())
            waiting.received = 0

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        """As ContentStore's; who is dear asks a store that is down in any case."""
        if _ONLY in besides:
            return None
        if dear:
            return await self._get_patiently(key, part)
        with self._patience.waits() as waiting:
            found = await self._get(key, part, within_s=self._left_s())
            waiting.received = len(found.data) if found else 0
        return found

    async def lacking(self, key: str) -> list[str]:
        try:
            standing = await self._ask(
                lambda: self._bucket.version(key), within_s=TRANSFER_TIMEOUT_S
            )
        except NotAllowed as refused:
            raise self._broken(f"{refused}: these credentials may not read it") from None
        return [_ONLY] if standing is None else []

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        copies: Collection[str] | None = None,
    ) -> None:
        if copies is not None and _ONLY not in copies:
            return
        await self._write(lambda: self._conditions.put(key, data, replaces))

    async def delete(self, key: str, *, etag: str, copies: Collection[str] | None = None) -> None:
        if copies is not None and _ONLY not in copies:
            return

        def remove() -> None:
            if self._bucket.version(key) == etag:
                self._bucket.remove(key)

        await self._write(remove)

    async def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        def claim() -> Claim:
            return self._claims.claim(key, holder, progress)

        if self._claims.asked(key, holder):  # who renews or waits is not held up by it
            return await self._write(claim)
        with self._patience.waits() as waiting:
            claimed = await self._claim_first(claim, lambda: self._claims.look(key, holder))
            waiting.received, waiting.is_no_delay = 0, claimed.holder != holder
        return claimed

    async def release(self, key: str, holder: str) -> None:
        if self._may_store and not self._conditions.are_missing:
            await self._write(lambda: self._claims.release(key, holder))

    async def _claim_first(
        self, claim: Callable[[], Claim], look: Callable[[], Claim | None]
    ) -> Claim:
        """What claim says; if it takes its time, what a look says."""
        left_s = self._left_s()
        said: list[Claim | ContentCacheDown] = []

        async def ask() -> None:
            try:
                said.append(await self._write(claim, within_s=left_s))
            except ContentCacheDown as down:
                said.append(down)
            nursery.cancel_scope.cancel()

        async def look_then() -> None:
            await trio.sleep(LOOK_AFTER_S)
            with suppress(ContentCacheDown, NotAllowed):  # ask says what is wrong
                found = await self._ask(look, within_s=left_s)
                if found is not None:
                    said.append(found)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(look_then)
        if isinstance(said[0], ContentCacheDown):
            raise said[0]
        return said[0]

    async def _get_patiently(self, key: str, part: range | None) -> Found | None:
        """Wait for a store that has been away for less than RESTART_S."""
        last = math.inf  # when this caller has waited long enough, however often it came back
        while True:
            try:
                return await self._get(key, part, soon=True)
            except ContentCacheDown:
                now, since = trio.current_time(), self._breaker.down_since
                last = min(last, now + RESTART_S)
                if since is None or now >= min(last, since + RESTART_S):
                    raise
            await trio.sleep(SOON_S)

    async def _get(
        self,
        key: str,
        part: range | None,
        *,
        within_s: float = TRANSFER_TIMEOUT_S,
        soon: bool = False,
    ) -> Found | None:
        try:
            found = await self._ask(
                lambda: self._bucket.get(key, part=part), within_s=within_s, soon=soon
            )
        except NotAllowed as refused:
            raise self._broken(f"{refused}: these credentials may not read it") from None
        return None if found is None else Found(found.data, found.version, copy=_ONLY)

    async def _write(self, call: Callable[[], T], *, within_s: float = TRANSFER_TIMEOUT_S) -> T:
        if not self._may_store:
            raise MayNotStore("these credentials may only read")
        try:
            return await self._ask(call, within_s=within_s)
        except NotAllowed as refused:
            self._breaker.succeeded()  # it can be read from
            self._may_store = False
            raise MayNotStore(
                f"{refused}: these credentials may only read; from now on nothing is stored"
            ) from None

    async def _ask(self, call: Callable[[], T], *, within_s: float, soon: bool = False) -> T:
        """What call returns, in a thread; NotAllowed is left to the caller."""
        if not self._breaker.allows(soon=soon):
            raise ContentCacheDown("skipped: it was unavailable a moment ago")
        begun = trio.current_time()
        try:
            with trio.fail_after(within_s):
                if not self._heard:
                    with trio.fail_after(CHECK_S):
                        await self._in_thread(self._bucket.check)
                    self._heard = True
                answer = await self._in_thread(call)
        except (NoAnswer, trio.TooSlowError) as error:
            self._heard = False
            raise self._broken(str(error) or "no answer in time", begun) from error
        except ContentCacheDown:
            self._breaker.succeeded()
            raise
        except (Odd, NoConditions) as error:
            self._breaker.succeeded()
            self._breaker.on_failure()
            raise ContentCacheDown(str(error)) from error
        self._breaker.succeeded()
        return answer

    def _left_s(self) -> float:
        """What look-ups may still wait."""
        left_s = self._patience.left_s
        if not left_s:
            raise ContentCacheDown("skipped: look-ups have waited for it long enough")
        return left_s

    def _broken(self, reason: str, begun: float | None = None) -> ContentCacheDown:
        self._breaker.failed(reason, begun=begun)
        return ContentCacheDown(reason)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limit, abandon_on_cancel=True)
