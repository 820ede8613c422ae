"""Makes room in an object store: whole layers, those first that were stored longest ago.

Stores do not tell when an object was read: a layer's age is that of its newest object, and so of
its last store or repair. One that is younger than SPARED_S stays: it may be being stored. An
index goes before its pages; a reader who has seen it finds fewer pages, and asks the registry.
What crashed processes left under `claims/` goes, too; what no node of ours stores stays, there
as elsewhere: a bucket without a prefix may be somebody else's, too.

Blocks. Not here: the command (`clipfs.cli.cache`); lifecycle rules, which the store's owner sets.
"""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from clipfs.tiers.content.bucket import FOLDER, Listed
from clipfs.tiers.content.claims import store_time
from clipfs.tiers.content.obstore_bucket import ObstoreBucket

SPARED_S = 3600
"""No layer is stored for longer, and no claim lives without a renewal for so long."""

_REMOVALS_AT_ONCE = 8
_LITTER = re.compile(
    rf"{FOLDER}/(?:sha256_[0-9a-f]{{64}}(?:\.[.0-9a-z]+)?|(?:clock|trial)-[0-9a-f]{{16}})"
)
_OF_A_LAYER = re.compile(r"(sha256_[0-9a-f]{64}(?:\.raw)?)(?:/\d{6}|\.v1\..+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A layer's objects; or an image's, under its manifest's key."""

    cache_key: str
    keys: tuple[str, ...]
    bytes: int
    last_stored: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """excess_bytes: over the limit, for all that could go has gone."""

    removed: list[StoredLayer]
    kept_bytes: int
    excess_bytes: int


def collect(url: str, max_bytes: int, *, spared_s: float = SPARED_S, ca_pem: str = "") -> Collected:
    """Remove layers of the store at url until max_bytes hold.

    ca_pem  CAs that the store is trusted by, beside the node's own
    Raises  InvalidInput; what a bucket raises
    """
    bucket = ObstoreBucket(url, ca_pem=ca_pem)
    bucket.check()
    young = store_time(bucket) - timedelta(seconds=spared_s)
    listed = list(bucket.listed())
    layers = layers_of(listed)
    going = to_remove(layers, max_bytes, young)
    litter = [one.key for one in listed if _LITTER.fullmatch(one.key) and one.modified < young]
    with ThreadPoolExecutor(_REMOVALS_AT_ONCE) as pool:
        for layer in going:
            pages = [key for key in layer.keys if "/" in key]
            for key in set(layer.keys) - set(pages):
                bucket.remove(key)
            list(pool.map(bucket.remove, pages))
        list(pool.map(bucket.remove, litter))
    kept = sum(one.bytes for one in layers) - sum(one.bytes for one in going)
    return Collected(removed=going, kept_bytes=kept, excess_bytes=max(0, kept - max_bytes))


def layers_of(listed: Iterable[Listed]) -> list[StoredLayer]:
    """What nodes have stored, by layer."""
    objects: dict[str, list[Listed]] = {}
    for one in listed:
        if match := _OF_A_LAYER.fullmatch(one.key):
            objects.setdefault(match[1], []).append(one)
    return [
        StoredLayer(
            cache_key=cache_key,
            keys=tuple(one.key for one in found),
            bytes=sum(one.bytes for one in found),
            last_stored=max(one.modified for one in found),
        )
        for cache_key, found in objects.items()
    ]


def to_remove(layers: Sequence[StoredLayer], max_bytes: int, young: datetime) -> list[StoredLayer]:
    """Which layers have to go, oldest first; young: none that was stored later than that."""
    excess = sum(layer.bytes for layer in layers) - max_bytes
    going: list[StoredLayer] = []
    for layer in sorted(layers, key=lambda one: one.last_stored):
        if excess <= 0 or layer.last_stored > young:
            break
        going.append(layer)
        excess -= layer.bytes
    return going
