"""Runs the full pass over a layer in a worker process, and waits for it: the parent's edge.

Not here: the pass (`clipfs.layer.worker`); who may run one, where it writes, what becomes of
the result (`clipfs.tiers.registry`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from clipfs import errors
from clipfs.image.model import BlobSource, Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.layer.job import WORKER, Job, PassProgress, PassWarning, Report
from clipfs.layer.process import run_worker

WORKER_MEMORY_BYTES = 1 << 30
"""Address space, of which a pass touches less than 300 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRequest:
    """One pass over `layer`.

    payload_fd      an empty file, or the partial payload of a fill
    map_fd, index   of a fill: chunks are verified against index and marked as they come
    """

    layer: Layer
    source: BlobSource
    payload_fd: int
    map_fd: int | None = None
    index: LayerIndex | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    index: LayerIndex
    warnings: tuple[str, ...]


async def run_pass(
    request: PassRequest, *, on_progress: Callable[[PassProgress], None]
) -> PassResult:
    """The layer's index, its payload written and fsynced, all digests checked.

    Raises        the worker's ClipError; NodeFault if it died
    Cancellation  kills the worker
    """
    warnings: list[str] = []

    def on_line(line: bytes) -> None:
        said: Report = msgspec.json.decode(line, type=Report)
        if isinstance(said, PassWarning):
            warnings.append(said.text)
        else:
            on_progress(said)

    fds = [fd for fd in (request.payload_fd, request.map_fd) if fd is not None]
    content = await run_worker(
        WORKER, _job(request), on_line=on_line, memory_bytes=WORKER_MEMORY_BYTES, pass_fds=fds
    )
    index = layer_index.decode(content)
    if index is None:
        raise errors.NodeFault(f"layer {request.layer.digest}: the worker's index is malformed")
    return PassResult(index=index, warnings=tuple(warnings))


def _job(request: PassRequest) -> bytes:
    layer = request.layer
    return msgspec.json.encode(
        Job(
            digest=layer.digest,
            size=layer.size,
            diff_id=layer.diff_id,
            url=request.source.url,
            headers=request.source.headers,
            payload_fd=request.payload_fd,
            is_raw=layer.raw_path is not None,
            map_fd=request.map_fd,
            chunk_digests=request.index.chunk_digests if request.index else None,
        )
    )
