"""What keeps objects for the whole cluster, whichever kind it is: the content cache's replicas, or
an object store that is there already.

Objects are bytes under a key. Pages never change; an object that may be replaced is replaced only
by whoever has seen what stands there. Tier 2 is an optimisation: every failure is one of the errors
below, which never leave `clipfs.tiers`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

MAX_OBJECT_BYTES = 64 << 20
"""Of any: a page has 8 MiB, a layer index no more than this (`clipfs.layer.limits`)."""


class ContentCacheDown(Exception):
    """The store gave no usable answer. Never leaves `clipfs.tiers`."""


class ContentRefused(ContentCacheDown):
    """It answered, and would answer the same again: a wrong object, or one that may not be."""


class MayNotStore(ContentRefused):
    """The token may only read."""


def worst(failures: Sequence[ContentCacheDown]) -> ContentCacheDown:
    """The one that says most: an answer is worth more than none."""
    for kind in (MayNotStore, ContentRefused, ContentCacheDown):
        for error in failures:
            if isinstance(error, kind):
                return error
    raise ValueError("no failures")


@dataclass(frozen=True, slots=True)
class Found:
    """An object's bytes, or a part of them; etag names what stands under the key.

    data      fewer bytes than were asked for, if the object ends before
    copy      which one of the object's copies it is
    is_alone  another copy, which should be there, is not
    """

    data: bytearray
    etag: str
    copy: str = ""
    is_alone: bool = False


class Progress(msgspec.Struct, frozen=True):
    """How far the holder of a claim is, for those who wait: bytes of the blob and of the payload.

    total_bytes   of the blob, as the manifest says
    stored_bytes  of all pages that the holder has stored, of other layers too, which go first
    """

    downloaded_bytes: int = 0
    payload_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0


class Claim(msgspec.Struct, frozen=True):
    """Who brings what a key names, as the one who keeps the claims says.

    holder  an id that no two processes share
    """

    holder: str
    progress: Progress


class ContentStore(Protocol):
    """Objects and claims by key. Safe to use from many tasks at once."""

    @property
    def may_store(self) -> bool:
        """False once the store has said that our token may only read."""

    async def get(
        self,
        key: str,
        *,
        part: range | None = None,
        dear: bool = False,
        probes: bool = False,
        besides: Collection[str] = (),
    ) -> Found | None:
        """The object, or just the bytes of part; None if there is no such object.

        dear     a miss costs more than a wait of some seconds for a store that restarts: a page,
                 or an index that another node brings; else no time is lost on one that is down
        probes   a copy that has been down for long is asked, too: quickly, by one for all
        besides  copies that are passed over, since they were wrong
        Raises   ContentCacheDown, also if more bytes came than part asked for
        """

    async def lacking(self, key: str) -> list[str]:
        """Which copies of the object should be stored, and are not; costs a byte of each.

        Raises  ContentCacheDown
        """

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        replaces: str | None = None,
        copies: Collection[str] | None = None,
    ) -> None:
        """Store an object; the same bytes again change nothing.

        replaces  the ETag of what may be replaced; None: nothing may
        copies    just these, as `lacking` names them; None: all
        Raises    MayNotStore; ContentRefused; ContentCacheDown
        """

    async def delete(self, key: str, *, etag: str, copies: Collection[str] | None = None) -> None:
        """Remove the object if it is still the one that etag names; else nothing happens.

        copies  just these, as `Found.copy` names them; None: all. An ETag does not tell a copy
                that has rotted from a good one
        Raises  MayNotStore; ContentCacheDown
        """

    async def claim(self, key: str, holder: str, progress: Progress) -> Claim:
        """Say that holder brings what key names, or still does; whose the claim is now.

        Raises  MayNotStore; ContentCacheDown: nobody keeps claims now
        """

    async def release(self, key: str, holder: str) -> None:
        """Give the claim up, if it is holder's.

        Raises  ContentCacheDown
        """
