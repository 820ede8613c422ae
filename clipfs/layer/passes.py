"""Runs the full pass over a layer in a worker process, and waits for it: the parent's edge.

    result = await run_pass(request, ...)     its payload and its index
    await run_proof(request, ...)             the blob has come, whole and right, and is gone

Not here: the pass (`clipfs.layer.worker`); who may run one, where it writes, what becomes of
the result (`clipfs.tiers.registry`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from clipfs import errors
from clipfs.image.blob import BlobBreak
from clipfs.image.model import BlobSource, Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import (
    RANGES,
    WORKER,
    BlobIsWrong,
    Job,
    PassProgress,
    PassWarning,
    Ranges,
    Report,
    SourceWanted,
)
from clipfs.system.workers import started

STALL_S = 60.0
"""Without a byte for so long, a registry counts as gone."""

WORKER_MEMORY_BYTES = 1 << 30
"""Address space. A pass touches less than 300 MB of it: 100, and the layer's entries
(`MAX_ENTRY_BYTES`); beyond that 32 bytes for each chunk, 25 MB for a payload of 100 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRequest:
    """One pass over `layer`.

    payload_fd      an empty file, or the partial payload of a fill; None: of a proof
    tells_wrong     if the sources' blob is not the layer's, that is WrongBlob; always if it came
                    in several ranges
    map_fd, index   of a fill: chunks are verified against index and marked as they come
    """

    layer: Layer
    source: BlobSource
    payload_fd: int | None
    map_fd: int | None = None
    index: LayerIndex | None = None
    ranges: Ranges = RANGES
    tells_wrong: bool = False
    stall_s: float = STALL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    index: LayerIndex
    warnings: tuple[str, ...]


class WrongBlob(Exception):
    """What came is not the layer's blob; other hosts may have that. `error` if none has."""

    def __init__(self, error: errors.ClipError) -> None:
        super().__init__(str(error))
        self.error = error


async def give_up(broken: BlobBreak) -> BlobSource:
    """The `on_break` of a pass that has one source only."""
    raise broken.error


async def run_pass(
    request: PassRequest,
    *,
    on_progress: Callable[[PassProgress], None],
    on_break: Callable[[BlobBreak], Awaitable[BlobSource]] = give_up,
) -> PassResult:
    """The layer's index, its payload written and fsynced, all digests checked.

    on_break      gives the source to go on from when a download broke off, or raises
    Raises        the worker's ClipError, or what on_break raises; NodeFault if it died;
                  WrongBlob
    Cancellation  kills the worker
    """
    content, warnings = await _run(request, on_progress, on_break)
    index = layer_index.decode(content)
    if index is None:
        raise errors.NodeFault(f"layer {request.layer.digest}: the worker's index is malformed")
    return PassResult(index=index, warnings=warnings)


async def run_proof(
    request: PassRequest,
    *,
    on_progress: Callable[[PassProgress], None],
    on_break: Callable[[BlobBreak], Awaitable[BlobSource]] = give_up,
) -> None:
    """Return once the layer's blob has come, whole and with its digest; else as run_pass."""
    await _run(request, on_progress, on_break)


async def _run(
    request: PassRequest,
    on_progress: Callable[[PassProgress], None],
    on_break: Callable[[BlobBreak], Awaitable[BlobSource]],
) -> tuple[bytes, tuple[str, ...]]:
    """The worker's result, and its warnings."""
    warnings: list[str] = []
    is_wrong = False

    def on_line(line: bytes) -> None:
        nonlocal is_wrong
        said: Report = msgspec.json.decode(line, type=Report)
        if isinstance(said, PassWarning):
            warnings.append(said.text)
        elif isinstance(said, BlobIsWrong):
            is_wrong = True
        else:
            on_progress(said)

    async def on_question(line: bytes) -> bytes:
        wanted = msgspec.json.decode(line, type=SourceWanted)
        broken = BlobBreak(
            error=errors.error_of_code(wanted.code, wanted.message),
            at_bytes=wanted.at_bytes,
            retry_after_s=wanted.retry_after_s,
        )
        return msgspec.json.encode(await on_break(broken))

    fds = [fd for fd in (request.payload_fd, request.map_fd) if fd is not None]
    try:
        async with started(WORKER, memory_bytes=WORKER_MEMORY_BYTES, pass_fds=fds) as worker:
            content = await worker.run(_job(request), on_line=on_line, on_question=on_question)
    except errors.CorruptImage as error:
        if is_wrong:
            raise WrongBlob(error) from error
        raise
    return content, tuple(warnings)


def _job(request: PassRequest) -> bytes:
    layer = request.layer
    return msgspec.json.encode(
        Job(
            digest=layer.digest,
            size=layer.size,
            diff_id=layer.diff_id,
            source=request.source,
            stall_s=request.stall_s,
            ranges=request.ranges,
            tells_wrong=request.tells_wrong,
            payload_fd=request.payload_fd,
            is_raw=layer.raw_path is not None,
            map_fd=request.map_fd,
            chunk_digests=request.index.chunk_digests if request.index else None,
        )
    )
