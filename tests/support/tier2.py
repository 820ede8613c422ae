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
    """By the server's own folder."""

    def write(key: str, data: bytes) -> None:
        path = server.objects / key
        path.parent.mkdir(exist_ok=True)
        new = server.folder / "poison"
        new.write_bytes(data)
        os.replace(new, path)

    def read(key: str) -> bytes | None:
        path = server.objects / key
        return path.read_bytes() if path.exists() else None

    return Tier2(url=server.url, write=write, read=read)


def of_bucket(bucket: str) -> Tier2:
    """A prefix of its own; the environment says where and who."""
    url = f"s3://{bucket}/tier-2/{os.getpid()}-{next(_PREFIXES)}"
    direct = ObstoreBucket(url)

    def read(key: str) -> bytes | None:
        found = direct.get(key)
        return None if found is None else bytes(found.data)

    return Tier2(url=url, write=direct.overwrite, read=read)
