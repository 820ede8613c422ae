"""Builds an image index in a worker process, and puts it into its place.

Layer indexes reach the worker through memory files, since those on disk are believed only
after their seal was checked.

Not here: the merge itself (`clipfs.tree.worker`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.index import LayerIndex
from clipfs.system.durable import write_all, write_atomically
from clipfs.system.workers import run_worker
from clipfs.tree.worker import WORKER, LayerToMerge

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


async def build_image_index(layers: Sequence[tuple[Layer, LayerIndex]], output: Path) -> None:
    """Merge layers, the lowest first, and write their image index; whole or not at all.

    Raises  CorruptImage if they make no tree; NodeFault if the worker died
    """
    fds: list[int] = []
    try:
        for layer, index in layers:
            fds.append(os.memfd_create(layer.digest, 0))
            write_all(fds[-1], layer_index.encode(index), 0)
        rows = zip(layers, fds, strict=True)
        job = msgspec.json.encode(
            [LayerToMerge(layer.digest, layer.raw_path, fd) for (layer, _), fd in rows]
        )
        image = await run_worker(
            WORKER,
            job,
            on_line=lambda _: None,
            memory_bytes=WORKER_MEMORY_BYTES,
            pass_fds=fds,
        )
    finally:
        for fd in fds:
            os.close(fd)
    write_atomically(output, image)
