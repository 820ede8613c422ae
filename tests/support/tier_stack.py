"""The tiers of one node, open in the test's own process."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from clipfs.image.credentials import RegistryConfig
from clipfs.image.driver import CredentialsSocket
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.reference import parse_reference
from clipfs.image.retry import RETRY, RetryPolicy
from clipfs.layer.job import RANGES, Ranges
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.tiers.content.bucket_opening import open_object_store
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentStore
from clipfs.tiers.settings import TierHooks, TierSettings
from clipfs.tiers.stack import Tiers, open_tiers
from clipfs.tiers.storer import Outcome, store_layer
from tests.support.content import TOKEN
from tests.support.samples import Sample

KEYS = KeyRing((b"the cluster's key",))
OLD = KeyRing((b"the key of last year",))
NEW = KeyRing((KEYS.keys[0], OLD.keys[0]))
"""Of a cluster whose key is KEYS' now, and was OLD's."""


class Counted:
    """What a node counts: bytes by tier, troubles, and how long each read of a tier took."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.indexed = 0
        self.hooks = TierHooks(
            on_read=self._add_read,
            on_download=lambda size: self._add("registry", size),
            on_indexed=self._add_indexed,
            on_trouble=lambda trouble: self.troubles.update([trouble]),
        )

    def _add_read(self, tier: str, size: int, seconds: float) -> None:
        self._add(tier, size)
        self.seconds[tier].append(seconds)

    def _add_indexed(self) -> None:
        self.indexed += 1

    def _add(self, tier: str, size: int) -> None:
        self.bytes[tier] += size


def made_layout(root: Path) -> Layout:
    layout = Layout(root)
    layout.make()
    return layout


@asynccontextmanager
async def opened_tiers(
    root: Path,
    reference: str,
    *,
    cache_url: str | None = None,
    token: str = TOKEN,
    hooks: TierHooks | None = None,
    retry: RetryPolicy = RETRY,
    mirrors: Mirrors = NO_MIRRORS,
    ranges: Ranges = RANGES,
    mounted: bool = False,
    config: RegistryConfig | None = None,
    driver: CredentialsSocket | None = None,
) -> AsyncIterator[Tiers]:
    """The tiers of the image at reference, whose registry speaks plain HTTP."""
    parsed = parse_reference(reference)
    settings = TierSettings(
        layout=made_layout(root),
        keys=KEYS,
        registry_config=config or RegistryConfig.empty(),
        driver=driver,
        plain_http=frozenset({parsed.registry}),
        content_cache_urls=(cache_url,) if cache_url else (),
        content_cache_token=token,
        retry=retry,
        mirrors=mirrors,
        ranges=ranges,
    )
    async with (
        settings.open_registry() as registry,
        open_tiers(
            settings, registry, parsed, hooks=hooks or TierHooks(), mounted=mounted
        ) as tiers,
    ):
        yield tiers


class Served(Protocol):
    """A content cache, or a relay before one."""

    @property
    def url(self) -> str: ...


def opened_replicas(*servers: Served, token: str = TOKEN) -> AbstractAsyncContextManager[Replicas]:
    """The servers as one store."""
    return Replicas.open([one.url for one in servers], token=token)


def opened_store(url: str) -> AbstractAsyncContextManager[ContentStore]:
    """Tier 2 of either kind, as a node opens it that may write."""
    if url.startswith("s3:"):
        return open_object_store(url)
    return Replicas.open([url], token=TOKEN)


async def store_sample(url: str, sample: Sample, *, keys: KeyRing = KEYS) -> None:
    """Put the sample into tier 2 of either kind, as a node that has it on disk does."""
    async with opened_store(url) as cache:
        assert await store_layer(cache, keys, sample.indexed, sample.tar) is Outcome.STORED
