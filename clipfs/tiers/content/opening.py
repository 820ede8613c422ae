"""Opens what keeps objects for the cluster: an object store, or the content cache's replicas.

Not here: how they are asked (`clipfs.tiers.content.objectstore`, `clipfs.tiers.content.replicas`).
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import trio

from clipfs.tiers.content.bucket import Bucket, NoAnswer
from clipfs.tiers.content.claims import CLAIM_LAPSES_S
from clipfs.tiers.content.objectstore import ObjectStore
from clipfs.tiers.content.patience import TOTAL_S, Patience
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentStore

MOST_START_S = 0.2
"""So much of what a process apart takes to start is taken off the time for the store: a mount
waits for both. Longer, and it is this node that is busy."""

_at_hand: list[Bucket] = []


@asynccontextmanager
async def open_content_store(
    urls: Sequence[str],
    *,
    token: str | None,
    ca_pem: str,
    will_fork: bool,
    check: bool,
    on_failure: Callable[[], None],
) -> AsyncIterator[ContentStore | None]:
    """What urls name, of whichever kind; None where they name nothing.

    token  of replicas; an object store's credentials are in the environment
    The others are `open_object_store`'s.
    """
    if not urls:
        yield None
    elif _is_object_store(urls):
        async with open_object_store(
            urls[0], will_fork=will_fork, check=check, ca_pem=ca_pem, on_failure=on_failure
        ) as store:
            yield store
    else:
        async with Replicas.open(
            urls, token=token, ca_pem=ca_pem, on_failure=on_failure
        ) as replicas:
            yield replicas


@contextmanager
def store_at_hand(urls: Sequence[str], *, ca_pem: str) -> Iterator[None]:
    """Have the process start now that `open_content_store` with will_fork asks an object store by.

    It loads while a mount does other things. To be entered with one thread only.
    """
    if not _is_object_store(urls):
        yield
        return
    from clipfs.tiers.content.bucket_process import BucketProcess

    with BucketProcess.open(urls[0], ca_pem=ca_pem, may_fork=True) as bucket:
        _at_hand.append(bucket)
        try:
            yield
        finally:
            _at_hand.remove(bucket)


def load_content_store(urls: Sequence[str]) -> None:
    """Load what `open_content_store` of a process that does not fork any more will need."""
    if _is_object_store(urls):
        import clipfs.tiers.content.obstore_bucket  # noqa: F401 # starts no thread before its use


def _is_object_store(urls: Sequence[str]) -> bool:
    return bool(urls) and urls[0].startswith(("s3:", "gs:", "az:"))


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
