"""Builds an image index in a worker process, and puts it into its place.

The process starts while the layers are still indexed: a mount waits for both. Layer indexes
reach it through memory files, since those on disk are believed only after their seal was checked.

Not here: the merge itself (`clipfs.tree.worker`).
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.system.durable import write_all, write_atomically
from clipfs.system.workers import Worker, started
from clipfs.tree.worker import WORKER, LayerToMerge, MergeJob

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


class Merger:
    """A process that waits for the indexes of layers, to merge them once; see `ready_to_merge`."""

    def __init__(self, worker: Worker, layers: Sequence[Layer], fd: int) -> None:
        self._worker = worker
        self._layers = layers
        self._fd = fd

    async def build(self, indexes: Sequence[LayerIndex], output: Path) -> None:
        """Merge the layers, and write their image index; whole or not at all.

        indexes  one for each layer, in their order
        Raises   CorruptImage if they make no tree; NodeFault if the worker died
        """
        job, at = MergeJob(fd=self._fd, layers=[]), 0
        for layer, index in zip(self._layers, indexes, strict=True):
            encoded = layer_index.encode(index)
            write_all(self._fd, encoded, at)
            job.layers.append(LayerToMerge(layer.digest, layer.raw_path, len(encoded)))
            at += len(encoded)
        image = await self._worker.run(msgspec.json.encode(job), on_line=lambda _: None)
        write_atomically(output, image)


@asynccontextmanager
async def ready_to_merge(layers: Sequence[Layer]) -> AsyncIterator[Merger]:
    """What merges layers, the lowest first, for as long as the block lasts."""
    fd = os.memfd_create("layer indexes")
    try:
        async with started(WORKER, memory_bytes=WORKER_MEMORY_BYTES, pass_fds=[fd]) as worker:
            yield Merger(worker, layers, fd)
    finally:
        os.close(fd)
