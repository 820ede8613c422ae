"""Tier 2 of either kind, with the hand of somebody who may write to it past all rules."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from clipfs.tiers.content.obstore_bucket import ObstoreBucket
from tests.support.content import ContentServer

_PREFIXES = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier2:
    """write  puts any bytes under a key, over what stands there; read: None if nothing does"""

    url: str
    write: Callable[[str, bytes], object]
    read: Callable[[str], bytes | None]


def of_server(server: ContentServer) -> Tier2:
    """By the server itself, which sees of its own folder only what it has changed."""

    def write(key: str, data: bytes) -> None:
        while server.ask("PUT", key, data).status == 409:  # a node may store there as well
            etag = server.ask("HEAD", key).headers.get("etag", "")
            server.ask("DELETE", key, headers={"If-Match": etag})

    def read(key: str) -> bytes | None:
        found = server.ask("GET", key)
        return found.body if found.status == 200 else None

    return Tier2(url=server.url, write=write, read=read)


def of_bucket(bucket: str) -> Tier2:
    """A prefix of its own; the environment says where and who."""
    url = f"s3://{bucket}/tier-2/{os.getpid()}-{next(_PREFIXES)}"
    direct = ObstoreBucket(url)

    def read(key: str) -> bytes | None:
        found = direct.get(key)
        return None if found is None else bytes(found.data)

    return Tier2(url=url, write=direct.overwrite, read=read)
