"""Opens what keeps objects for the cluster: an object store, or the content cache's replicas.

Not here: how they are asked (`clipfs.tiers.content.objectstore`, `clipfs.tiers.content.replicas`).
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from clipfs.tiers.content.environment import is_object_store
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentStore


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
    elif is_object_store(urls[0]):
        from clipfs.tiers.content.bucket_opening import open_object_store

        async with open_object_store(
            urls[0], will_fork=will_fork, check=check, ca_pem=ca_pem, on_failure=on_failure
        ) as store:
            yield store
    else:
        async with Replicas.open(
            urls, token=token, ca_pem=ca_pem, on_failure=on_failure
        ) as replicas:
            yield replicas


def store_at_hand(urls: Sequence[str], *, ca_pem: str) -> AbstractContextManager[None]:
    """Have `open_content_store` with will_fork be quick; to be entered with one thread only."""
    if not (urls and is_object_store(urls[0])):
        return nullcontext()
    from clipfs.tiers.content.bucket_opening import bucket_at_hand

    return bucket_at_hand(urls[0], ca_pem=ca_pem)


def load_content_store(urls: Sequence[str]) -> None:
    """Load what `open_content_store` of a process that does not fork any more will need."""
    if urls and is_object_store(urls[0]):
        import clipfs.tiers.content.obstore_bucket  # noqa: F401 # starts no thread before its use
