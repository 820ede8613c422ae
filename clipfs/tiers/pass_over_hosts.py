"""Passes over an image's layers, each run again at the next host as long as a wrong blob comes.

A pass that has received the right blob is the proof that the reference's host delivers it: the
layer's origin is recorded. `prove` is a pass for that alone, of a layer that is cached already.

Mirrors are the administrator's choice: one that is wrong costs a download, not the image.

Not here: when a layer is passed over, and by whom (`clipfs.tiers.registry`), or its origin proved
(`clipfs.tiers.proofs`); which hosts there are (`clipfs.image.blob`); the pass
(`clipfs.layer.passes`).
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec
import trio

from clipfs.image.blob import BlobBreak, BlobSources
from clipfs.image.model import BlobSource, Layer
from clipfs.image.reference import Reference
from clipfs.image.registry import Registry
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import ONE_STREAM, PassProgress, Ranges
from clipfs.layer.passes import PassRequest, PassResult, WrongBlob, run_pass, run_proof
from clipfs.log import log
from clipfs.tiers.origins import OriginRecords

MAX_CONNECTIONS = 8
"""Divided by the passes that run, how many a pass may have that begins: one at least."""

T_co = TypeVar("T_co", covariant=True)

_NOTHING = PassProgress(downloaded_bytes=0, payload_bytes=0)


class _Run(Protocol[T_co]):
    """`run_pass` or `run_proof`."""

    async def __call__(
        self,
        request: PassRequest,
        *,
        on_progress: Callable[[PassProgress], None],
        on_break: Callable[[BlobBreak], Awaitable[BlobSource]],
    ) -> T_co: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Over layers of the image at reference.

    workers      taken by the caller of `run` and `prove`: passes side by side, one process each
    ranges       of a pass that runs alone
    on_progress  told of each progress, but not of what is read again
    """

    registry: Registry
    reference: Reference
    origins: OriginRecords
    workers: trio.CapacityLimiter
    ranges: Ranges
    on_progress: Callable[[Layer, PassProgress], None]

    async def run(
        self,
        layer: Layer,
        *,
        payload_fd: int,
        map_fd: int | None = None,
        index: LayerIndex | None = None,
        on_download: Callable[[int], None],
    ) -> PassResult:
        """A pass as `PassRequest` has it; then the layer's origin is recorded.

        on_download  told at each progress of the bytes that have come, those of a wrong blob too
        Raises       as run_pass, but CorruptImage for a blob that no host has right
        """
        begin = time.perf_counter()
        log.info(
            "OCI CACHE MISS - downloading and decompressing layer from registry",
            layer=layer.digest,
            cache_key=layer.cache_key,
        )
        sources = BlobSources(self.registry, self.reference, layer)
        request = PassRequest(
            layer=layer,
            source=await sources.first(),
            payload_fd=payload_fd,
            map_fd=map_fd,
            index=index,
            ranges=self._shared_ranges(),
        )
        result = await self._over_hosts(run_pass, sources, request, on_download)
        self.origins.add(layer, self.reference.registry)
        log.info(
            "Layer decompressed and cached to disk",
            layer=layer.digest,
            cache_key=layer.cache_key,
            bytes_read=layer.size,
            decompressed_bytes=result.index.payload_bytes,
            duration=time.perf_counter() - begin,
        )
        for warning in result.warnings:
            log.warning(warning, cache_key=layer.cache_key)
        return result

    async def prove(self, layer: Layer, *, on_download: Callable[[int], None]) -> None:
        """Download the blob and keep nothing; then the layer's origin is recorded.

        on_download, Raises  as run
        """
        begin = time.perf_counter()
        fields = {"layer": layer.digest, "cache_key": layer.cache_key}
        host = self.reference.registry
        log.info(
            "downloading a cached layer, as proof that its registry has it", **fields, host=host
        )
        self.on_progress(layer, msgspec.structs.replace(_NOTHING, is_proof=True))
        sources = BlobSources(self.registry, self.reference, layer)
        request = PassRequest(
            layer=layer,
            source=await sources.first(),
            payload_fd=None,
            ranges=self._shared_ranges(),
        )
        await self._over_hosts(run_proof, sources, request, on_download)
        self.origins.add(layer, host)
        log.info(
            "Layer was delivered, its origin is recorded",
            **fields,
            host=host,
            bytes_read=layer.size,
            duration=time.perf_counter() - begin,
        )

    async def _over_hosts(
        self,
        run: _Run[T_co],
        sources: BlobSources,
        request: PassRequest,
        on_download: Callable[[int], None],
    ) -> T_co:
        """The run that request begins, with the source that sources has just given it."""
        seen = furthest = _NOTHING

        def on_progress(progress: PassProgress) -> None:
            nonlocal seen, furthest
            on_download(progress.downloaded_bytes - seen.downloaded_bytes)
            seen = msgspec.structs.replace(progress, is_proof=request.payload_fd is None)
            if seen.downloaded_bytes >= furthest.downloaded_bytes:
                furthest = seen
                self.on_progress(request.layer, seen)

        while True:
            request = replace(request, tells_wrong=sources.has_others())
            try:
                result = await run(request, on_progress=on_progress, on_break=sources.after)
            except WrongBlob as wrong:
                in_ranges = request.ranges.apply_to(request.layer.size)
                sources.leave_wrong(wrong.error, or_again=in_ranges)
            else:
                on_download(request.layer.size - seen.downloaded_bytes)
                return result
            seen = _NOTHING
            request = replace(request, source=await sources.first(), ranges=ONE_STREAM)

    def _shared_ranges(self) -> Ranges:
        """What a pass may have that begins as the last of those that run."""
        passes = int(self.workers.borrowed_tokens)
        connections = max(1, min(self.ranges.connections, MAX_CONNECTIONS // passes))
        return msgspec.structs.replace(self.ranges, connections=connections)
