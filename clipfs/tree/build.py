"""Builds an image index in a worker process: `python -m clipfs.tree.build`.

Merging needs the whole tree in memory and is other people's data; the process that will
answer the kernel keeps neither. Layer indexes reach the worker through memory files, since
those on disk are believed only after their seal was checked.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer import index as layer_index
from clipfs.layer.child import worker_main
from clipfs.layer.durable import write_all, write_atomically
from clipfs.layer.index import LayerIndex
from clipfs.layer.process import run_worker
from clipfs.tree.merge import merge
from clipfs.tree.writer import Device, write_image

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


class _Job(msgspec.Struct, frozen=True):
    digests: list[str]
    fds: list[int]


async def build_image_index(layers: Sequence[tuple[Digest, LayerIndex]], output: Path) -> None:
    """Merge layers, the lowest first, and write their image index; whole or not at all.

    Raises  CorruptImage if they make no tree; NodeFault if the worker died
    """
    fds: list[int] = []
    try:
        for digest, index in layers:
            fds.append(os.memfd_create(digest, 0))
            write_all(fds[-1], layer_index.encode(index), 0)
        job = msgspec.json.encode(_Job([digest for digest, _ in layers], fds))
        image = await run_worker(
            "clipfs.tree.build",
            job,
            on_line=lambda _: None,
            memory_bytes=WORKER_MEMORY_BYTES,
            pass_fds=fds,
        )
    finally:
        for fd in fds:
            os.close(fd)
    write_atomically(output, image)


def _build(line: bytes) -> bytearray:
    job = msgspec.json.decode(line, type=_Job)
    indexes = [_read(fd) for fd in job.fds]
    root = merge(index.entries() for index in indexes)
    devices = [
        Device(digest=Digest(digest), payload_bytes=index.payload_bytes)
        for digest, index in zip(job.digests, indexes, strict=True)
    ]
    return write_image(root, devices)


def _read(fd: int) -> LayerIndex:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        index = layer_index.decode(file.read())
    if index is None:
        raise errors.CorruptImage("a layer index is malformed")
    return index


if __name__ == "__main__":
    worker_main(_build)
