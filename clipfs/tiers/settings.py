"""What the tiers of an image are told when they are opened: settings, and who wants to know.

Not here: the tiers (`clipfs.tiers.stack`); reading options and files (`clipfs.cli.options`).
"""

import os
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from clipfs.image.credentials import RegistryConfig
from clipfs.image.driver import CredentialsSocket
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.model import Layer
from clipfs.image.registry import Registry
from clipfs.image.retry import RETRY, RetryPolicy
from clipfs.layer.job import RANGES, PassProgress, Ranges
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.tiers.tier import IndexedLayer, TierName, Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """What an administrator decides; values, already read from their files.

    driver              who has other credentials once registry_config's are refused
    ca_pem              CAs that servers are trusted by, beside the node's own
    content_cache_urls  of one content cache's replicas; none: tier 2 is off
    retry               how often, and how soon, a registry that fails is asked again
    holder              names this process and its fork, one after the other, in its node's claims
    workers             passes side by side, one process each; one more than cores, as a pass
                        waits now and then, for the registry or the disk
    ranges              how a large blob is read by a pass that runs alone
    """

    layout: Layout
    keys: KeyRing
    registry_config: RegistryConfig
    driver: CredentialsSocket | None = None
    plain_http: frozenset[str] = frozenset()
    ca_pem: str = field(default="", repr=False)
    mirrors: Mirrors = NO_MIRRORS
    content_cache_urls: tuple[str, ...] = ()
    content_cache_token: str | None = field(default=None, repr=False)
    holder: str = field(default_factory=lambda: secrets.token_hex(16))
    retry: RetryPolicy = RETRY
    ranges: Ranges = RANGES
    workers: int = field(default_factory=lambda: 1 + (os.cpu_count() or 1))

    def open_registry(self) -> AbstractAsyncContextManager[Registry]:
        return Registry.open(
            config=self.registry_config,
            plain_http=self.plain_http,
            ca_pem=self.ca_pem,
            mirrors=self.mirrors,
            retry=self.retry,
            driver=self.driver,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TierHooks:
    """Who wants to know: of reads and downloads, of the progress of a layer's pass.

    on_read      a tier has answered a read, with so many bytes (the registry's: on_download), after
                 so many seconds
    on_download  so many bytes of a blob have come
    on_indexed   a pass over a layer's blob has made its index
    on_trouble   something is wrong with the content cache, which fails nobody
    on_filled    gets the layers that the content cache lacks, in the Storer's stead
    """

    on_read: Callable[[TierName, int, float], None] = lambda *_: None
    on_download: Callable[[int], None] = lambda _: None
    on_indexed: Callable[[], None] = lambda: None
    on_trouble: Callable[[Trouble], None] = lambda _: None
    on_progress: Callable[[Layer, PassProgress], None] = lambda *_: None
    on_filled: Callable[[IndexedLayer], None] | None = None
