"""Where one layer's blob is read, found anew whenever a download of it breaks off.

    sources = BlobSources(registry, reference, layer)
    source = await sources.first()
    source = await sources.after(broken)      waits first; raises broken.error to give up
    sources.leave_wrong(error)                the blob was a wrong one: begin with first() again,
                                              at other hosts; raises error if there is none

A fresh source has a fresh token and a fresh signature where the old ones have expired, and is
another host's where there are mirrors.

Not here: the download, which goes on where it broke off (`clipfs.layer.blob.source`).
"""

import random
from dataclasses import dataclass

import trio

from clipfs import errors
from clipfs.image.model import BlobSource, Layer
from clipfs.image.reference import Reference
from clipfs.image.registry import Registry
from clipfs.log import log

PROGRESS_BYTES = 1 << 20
"""A download that came so far before it broke off has all its attempts again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobBreak:
    """A download that ended too early, and why.

    at_bytes       how much of the blob had come, over all its sources
    retry_after_s  what the peer asked for, if anything
    """

    error: errors.ClipError
    at_bytes: int
    retry_after_s: float | None = None


class BlobSources:
    """One download's sources, one after the other."""

    def __init__(self, registry: Registry, reference: Reference, layer: Layer) -> None:
        self._registry = registry
        self._reference = reference
        self._layer = layer
        self._given: list[str] = []  # hosts that bytes came from, and the one in use
        self._given_at_bytes = 0
        self._wrong: set[str] = set()
        self._failed = 0
        self._failing_since = 0.0
        self._failing_at_bytes = 0

    async def first(self) -> BlobSource:
        source = await self._registry.blob_source(self._reference, self._layer, without=self._wrong)
        self._given.append(source.host)
        return source

    def has_others(self) -> bool:
        """Whether there is another host to ask if a wrong blob comes."""
        return len(self._right()) > 1

    def leave_wrong(self, error: errors.ClipError, *, or_again: bool = False) -> None:
        """Leave out the hosts that the blob came from, which is a wrong one, and warn of them.

        Of several, whose parts do not fit, the last in order is believed once more.
        or_again  the last host of all is believed once more, too
        Raises    error if no host is left
        """
        right = self._right()
        suspects = [host for host in right if host in self._given]
        left = suspects[-1:] if len(suspects) > 1 or (or_again and suspects == right) else []
        for host in suspects:
            log.warning(
                "host sent a wrong blob",
                host=host,
                image=str(self._reference),
                layer=self._layer.digest,
                error=str(error),
            )
            self._registry.set_back(host)
        self._wrong.update(host for host in suspects if host not in left)
        self._given, self._given_at_bytes, self._failed = [], 0, 0
        if not suspects or not self._right():
            raise error

    def _right(self) -> list[str]:
        hosts = self._registry.blob_hosts(self._reference)
        return [host for host in hosts if host not in self._wrong]

    async def after(self, broken: BlobBreak) -> BlobSource:
        """A source to go on from; the break's own error once it is given up.

        Raises  what the registry answers now, if it no longer has the blob for us
        """
        delay_s = self._delay_s(broken, now=trio.current_time())
        if delay_s is None:
            raise broken.error
        await trio.sleep(delay_s)
        self._registry.set_back(self._given[-1])
        if broken.at_bytes == self._given_at_bytes:  # nothing came from there
            self._given.pop()
        self._given_at_bytes = broken.at_bytes
        return await self.first()

    def _delay_s(self, broken: BlobBreak, *, now: float) -> float | None:
        came_bytes = broken.at_bytes - self._failing_at_bytes
        if self._failed == 0 or came_bytes >= PROGRESS_BYTES:
            self._failed = 0
            self._failing_since = now
            self._failing_at_bytes = broken.at_bytes
        self._failed += 1
        return self._registry.retry.delay_s(
            failed=self._failed,
            elapsed_s=now - self._failing_since,
            retry_after_s=broken.retry_after_s,
            draw=random.random(),
        )
