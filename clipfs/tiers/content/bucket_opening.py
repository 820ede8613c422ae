"""Opens an object store, in this process or, for one that will fork, in a process apart.

Not here: how it is asked (`clipfs.tiers.content.objectstore`).
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from clipfs.tiers.content.bucket import Bucket, NoAnswer
from clipfs.tiers.content.claims import CLAIM_LAPSES_S
from clipfs.tiers.content.objectstore import ObjectStore
from clipfs.tiers.content.patience import TOTAL_S, Patience

MOST_START_S = 0.2
"""So much of what a process apart takes to start is taken off the time for the store: a mount
waits for both. Longer, and it is this node that is busy."""

_at_hand: list[Bucket] = []


@contextmanager
def bucket_at_hand(url: str, *, ca_pem: str) -> Iterator[None]:
    """Have the process start now that `open_object_store` with will_fork asks url by.

    It loads while a mount does other things. To be entered with one thread only.
    """
    from clipfs.tiers.content.bucket_process import BucketProcess

    with BucketProcess.open(url, ca_pem=ca_pem, may_fork=True) as bucket:
        _at_hand.append(bucket)
        try:
            yield
        finally:
            _at_hand.remove(bucket)


@asynccontextmanager
async def open_object_store(
    url: str,
    *,
    will_fork: bool = False,
    check: bool = True,
    ca_pem: str = "",
    claim_lapses_s: float = CLAIM_LAPSES_S,
    on_failure: Callable[[], None] = lambda: None,
) -> AsyncIterator[ObjectStore]:
    """The store at url.

    url             s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    will_fork       this process goes on as its own fork later, as `clipfs mount` does
    check           ask it whether it is there: a dead one costs CHECK_S now, not its first caller
    ca_pem          CAs that the store is trusted by, beside the node's own
    claim_lapses_s  the same for all nodes
    on_failure      called for each request without a usable answer
    Raises          InvalidInput: there can be no such URL
    """
    with _opened(url, will_fork, ca_pem) as bucket:
        begun = trio.current_time()
        with suppress(NoAnswer):  # whoever asks first meets it again, and has the breaker say so
            await trio.to_thread.run_sync(bucket.ready)
        start_s = min(trio.current_time() - begun, MOST_START_S) if will_fork else 0
        store = ObjectStore(
            bucket,
            url=url,
            claim_lapses_s=claim_lapses_s,
            patience=Patience(TOTAL_S - start_s),
            on_failure=on_failure,
        )
        if check:
            await store.check()
        yield store


@contextmanager
def _opened(url: str, will_fork: bool, ca_pem: str) -> Iterator[Bucket]:
    if not will_fork:
        from clipfs.tiers.content.obstore_bucket import ObstoreBucket, is_usable  # 24 ms

        if is_usable():
            yield ObstoreBucket(url, ca_pem=ca_pem)
            return
    elif _at_hand:
        yield _at_hand[-1]
        return
    from clipfs.tiers.content.bucket_process import BucketProcess

    with BucketProcess.open(url, ca_pem=ca_pem) as bucket:
        yield bucket
