"""Builds an image index in a worker process, and puts it into its place.

The process starts while the layers are still indexed: a mount waits for both. Layer indexes
reach it through memory files, since those on disk are believed only after their seal was checked.

Not here: the merge itself (`clipfs.tree.worker`).
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.system.durable import write_all, write_atomically
from clipfs.system.workers import Worker, started
from clipfs.tree.worker import WORKER, LayerToMerge

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


class Merger:
    """A process that waits for the indexes of layers, to merge them once; see `ready_to_merge`."""

    def __init__(self, worker: Worker, layers: Sequence[Layer], fds: Sequence[int]) -> None:
        self._worker = worker
        self._layers = layers
        self._fds = fds

    async def build(self, indexes: Sequence[LayerIndex], output: Path) -> None:
        """Merge the layers, and write their image index; whole or not at all.

        indexes  one for each layer, in their order
        Raises   CorruptImage if they make no tree; NodeFault if the worker died
        """
        for fd, index in zip(self._fds, indexes, strict=True):
            write_all(fd, layer_index.encode(index), 0)
        rows = zip(self._layers, self._fds, strict=True)
        job = msgspec.json.encode(
            [LayerToMerge(layer.digest, layer.raw_path, fd) for layer, fd in rows]
        )
        write_atomically(output, await self._worker.run(job, on_line=lambda _: None))


@asynccontextmanager
async def ready_to_merge(layers: Sequence[Layer]) -> AsyncIterator[Merger]:
    """What merges layers, the lowest first, for as long as the block lasts."""
    with ExitStack() as opened:
        fds: list[int] = []
        for layer in layers:
            fds.append(os.memfd_create(layer.digest, 0))
            opened.callback(os.close, fds[-1])
        async with started(WORKER, memory_bytes=WORKER_MEMORY_BYTES, pass_fds=fds) as worker:
            yield Merger(worker, layers, fds)
