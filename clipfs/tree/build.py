"""Builds an image index in a worker process, and puts it into its place.

The process merges each layer as soon as it is indexed, the lowest first: a mount waits for both.
Layer indexes reach it through a memory file, since those on disk are believed only after their
seal was checked.

Not here: the merge itself (`clipfs.tree.worker`).
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from clipfs import errors
from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.system.durable import copy_all, make_atomically, write_all
from clipfs.system.groups import lone_error_unwrapped
from clipfs.system.workers import Worker, started
from clipfs.tree.job import WORKER, IndexWanted, LayerToMerge, MergeJob, Place

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


class Merger:
    """Merges the layers of one image once, each when its index is given; see `merging`."""

    def __init__(self, worker: Worker, layers: Sequence[Layer], fd: int) -> None:
        self._worker = worker
        self._layers = layers
        self._fd = fd
        self._end = 0  # of what stands in the memory file
        self._places: dict[str, Place] = {}  # by cache key
        self._given = {layer.cache_key: trio.Event() for layer in layers}
        self._is_wanted = trio.Event()
        self._outcome: bytes | errors.ClipError = b""
        self._ended = trio.Event()

    def begin(self) -> None:
        """Merge what is given; before, it only waits, since another may have merged it."""
        self._is_wanted.set()

    def give(self, layer: Layer, index: LayerIndex) -> None:
        """Let the index of layer be merged, wherever the image has that layer."""
        encoded = layer_index.encode(index)
        write_all(self._fd, encoded, self._end)
        self._places[layer.cache_key] = Place(self._end, len(encoded))
        self._end += len(encoded)
        self._given[layer.cache_key].set()

    async def build(self, output: Path) -> None:
        """Write the image index, whole or not at all, once all indexes have been given.

        Raises  CorruptImage if the layers make no tree; NodeFault if the worker died
        """
        self.begin()
        await self._ended.wait()
        if isinstance(self._outcome, errors.ClipError):
            raise self._outcome
        image = msgspec.json.decode(self._outcome, type=Place)
        make_atomically(output, lambda fd: copy_all(self._fd, image.offset, image.size, fd))

    async def run(self) -> None:
        """Have the worker merge what is given; what comes of it is for `build`."""
        await self._is_wanted.wait()
        layers = [LayerToMerge(layer.digest, layer.raw_path) for layer in self._layers]
        job = msgspec.json.encode(MergeJob(fd=self._fd, layers=layers))
        try:
            self._outcome = await self._worker.run(
                job, on_line=lambda _: None, on_question=self._answer
            )
        except errors.ClipError as error:
            self._outcome = error
        self._ended.set()

    async def _answer(self, question: bytes) -> bytes:
        key = self._layers[msgspec.json.decode(question, type=IndexWanted).number].cache_key
        await self._given[key].wait()
        return msgspec.json.encode(self._places[key])


@asynccontextmanager
async def merging(layers: Sequence[Layer]) -> AsyncIterator[Merger]:
    """What merges layers, the lowest first; ended with the block."""
    fd = os.memfd_create("layer indexes")
    try:
        async with started(WORKER, memory_bytes=WORKER_MEMORY_BYTES, pass_fds=[fd]) as worker:
            merger = Merger(worker, layers, fd)
            with lone_error_unwrapped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(merger.run)
                    yield merger
                    nursery.cancel_scope.cancel()
    finally:
        os.close(fd)
