"""A content store in memory, the smallest that keeps the promises: for tests of what uses one.

Claims lapse by trio's clock. It can be down, keep no claims, and let its user only read.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import sha256

import trio

from clipfs.tiers.content.store import (
    Claim,
    ContentCacheDown,
    ContentRefused,
    Found,
    MayNotStore,
    Progress,
)

LAPSES_S = 15

COPY = "memory"
"""The one copy that there is."""


@dataclass(slots=True)
class MemoryStore:
    """is_down: gives no answer. keeps_claims: else it is asked in vain. claims: until when."""

    objects: dict[str, bytes] = field(default_factory=dict)
    claims: dict[str, tuple[Claim, float]] = field(default_factory=dict)
    may_store: bool = True
    is_down: bool = False
    keeps_claims: bool = True
    asked: list[str] = field(default_factory=list)

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        await self._answer(f"get {key}")
        data = self.objects.get(key)
        if data is None or COPY in besides:
            return None
        asked = data if part is None else data[part.start : part.stop]
        return Found(bytearray(asked), _etag(data), copy=COPY)

    async def lacking(self, key: str) -> list[str]:
        await self._answer(f"lacking {key}")
        return [] if key in self.objects else [COPY]

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        copies: Collection[str] | None = None,
    ) -> None:
        await self._answer(f"put {key}")
        stands = self.objects.get(key)
        if stands not in (None, bytes(data)) and (stands is None or replaces != _etag(stands)):
            raise ContentRefused("something else is stored there")
        self.objects[key] = bytes(data)

    async def delete(self, key: str, *, etag: str, copies: Collection[str] | None = None) -> None:
        await self._answer(f"delete {key}")
        if copies is not None and COPY not in copies:
            return
        if key in self.objects and _etag(self.objects[key]) == etag:
            del self.objects[key]

    async def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        await self._answer(f"claim {key} {holder}")
        if not self.may_store:
            raise MayNotStore("the token may only read")
        if not self.keeps_claims:
            raise ContentCacheDown("this store can keep no claims")
        now = trio.current_time()
        held, until = self.claims.get(key, (None, 0.0))
        if held is not None and until > now and held.holder != holder:
            return held
        claim = Claim(holder, progress)
        self.claims[key] = claim, now + LAPSES_S
        return claim

    async def release(self, key: str, holder: str) -> None:
        await self._answer(f"release {key} {holder}")
        if self.holder_of(key) == holder:
            del self.claims[key]

    def holder_of(self, key: str) -> str | None:
        """Whose claim stands."""
        held, until = self.claims.get(key, (None, 0.0))
        return held.holder if held is not None and until > trio.current_time() else None

    async def _answer(self, asked: str) -> None:
        self.asked.append(asked)
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise ContentCacheDown("down")


def _etag(data: bytes) -> str:
    return sha256(data).hexdigest()
