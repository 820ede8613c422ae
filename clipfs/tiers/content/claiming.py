"""A claim at several replicas: at the first ones in its key's order that answer.

They are asked one after the other, all nodes in the same order, so of two nodes one is refused
by the first. A claim that another holds counts wherever it is met: it was made while others were
away, and what these have granted since is given back.

Not here: who is asked (`clipfs.tiers.content.replicas`).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from clipfs.tiers.content.exchange import Hurry
from clipfs.tiers.content.replica import Replica
from clipfs.tiers.content.store import Claim, ContentCacheDown, ContentRefused, Progress, worst

T = TypeVar("T")


async def claim_at(
    order: Sequence[Replica],
    copies: int,
    key: str,
    holder: str,
    progress: Progress,
    *,
    hurry: Callable[[int], Hurry],
) -> Claim:
    """Whose the claim is now, as ContentStore's.

    order   all replicas, from the one that key belongs to first
    copies  how many are to keep it
    hurry   for a replica, by how many others may be asked after it
    """
    granted: list[Replica] = []

    async def ask(replica: Replica, others: int) -> Claim:
        claim = await replica.claim(key, holder, progress, hurry=hurry(others))
        if claim.holder == holder:
            granted.append(replica)
        return claim

    said = await _of_answering(order, copies, ask, until=lambda claim: claim.holder != holder)
    if said[-1].holder != holder:
        for replica in granted:
            with suppress(ContentCacheDown):
                await replica.release(key, holder)
    return said[-1]


async def release_at(order: Sequence[Replica], copies: int, key: str, holder: str) -> None:
    """Give the claim up, as ContentStore's."""
    await _of_answering(order, copies, lambda replica, _: replica.release(key, holder))


async def _of_answering(
    order: Sequence[Replica],
    copies: int,
    ask: Callable[[Replica, int], Awaitable[T]],
    *,
    until: Callable[[T], bool] = lambda _: False,
) -> list[T]:
    """What the first replicas that answer say, at most as many as copies.

    until   one says this: the others are not asked
    Raises  ContentRefused, of any; ContentCacheDown if none answers
    """
    said: list[T] = []
    failures: list[ContentCacheDown] = []
    for others, replica in zip(reversed(range(len(order))), order, strict=True):
        try:
            said.append(await ask(replica, others))
        except ContentRefused:
            raise
        except ContentCacheDown as error:
            failures.append(error)
            continue
        if len(said) == copies or until(said[-1]):
            break
    if not said:
        raise worst(failures)
    return said
