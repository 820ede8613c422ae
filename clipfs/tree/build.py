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
from clipfs.image.model import Layer
from clipfs.layer import index as layer_index
from clipfs.layer.child import worker_main
from clipfs.layer.durable import write_all, write_atomically
from clipfs.layer.index import Entry, EntryKind, LayerIndex
from clipfs.layer.names import normalised
from clipfs.layer.process import run_worker
from clipfs.tree.merge import WHITEOUT, merge
from clipfs.tree.sparse import layout_of
from clipfs.tree.writer import Device, write_image

WORKER_MEMORY_BYTES = 4 << 30
"""Address space: a million entries take about 1 GB while they are merged."""


class _Layer(msgspec.Struct, frozen=True):
    digest: str
    raw_path: str | None
    fd: int


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
            [_Layer(layer.digest, layer.raw_path, fd) for (layer, _), fd in rows]
        )
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
    layers = msgspec.json.decode(line, type=list[_Layer])
    indexes = [_read(layer.fd) for layer in layers]
    root = merge(
        index.entries() if layer.raw_path is None else [raw_entry(layer.raw_path, index)]
        for layer, index in zip(layers, indexes, strict=True)
    )
    devices = [
        Device(
            digest=Digest(layer.digest),
            payload_bytes=index.payload_bytes,
            sparse=layout_of(index.sparse),
        )
        for layer, index in zip(layers, indexes, strict=True)
    ]
    return write_image(root, devices)


def raw_entry(path: str, index: LayerIndex) -> Entry:
    """The one file of a raw layer; CorruptImage if path, which a manifest says, is none."""
    try:
        name = normalised(path.encode())
    except (errors.CorruptImage, UnicodeEncodeError) as error:
        raise errors.CorruptImage(f"a layer's title is no path: {path[:120]!a}") from error
    if not name or name.rpartition(b"/")[2].startswith(WHITEOUT):
        raise errors.CorruptImage(f"a layer's title names no file: {path[:120]!a}")
    return Entry(path=name, kind=EntryKind.FILE, mode=0o644, size=index.payload_bytes)


def _read(fd: int) -> LayerIndex:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        index = layer_index.decode(file.read())
    if index is None:
        raise errors.CorruptImage("a layer index is malformed")
    return index


if __name__ == "__main__":
    worker_main(_build)
