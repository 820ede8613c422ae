"""The merge, in a process of its own: `python -m clipfs.tree.worker`.

Merging needs the whole tree in memory and is other people's data; the process that will
answer the kernel keeps neither. Loads no trio: it starts in half the time.

Not here: who runs it, and where its image goes (`clipfs.tree.build`).
"""

from collections.abc import Sequence

import msgspec

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer import index as layer_index
from clipfs.layer.archive.names import normalised
from clipfs.layer.index import Entry, EntryKind, LayerIndex
from clipfs.layer.limits import MAX_IMAGE_ENTRIES, MAX_IMAGE_ENTRY_BYTES
from clipfs.system.child import worker_main
from clipfs.tree.merge import WHITEOUT, merge
from clipfs.tree.sparse import layout_of
from clipfs.tree.writer import Device, write_image

WORKER = "clipfs.tree.worker"
"""The module that a worker process runs."""


class LayerToMerge(msgspec.Struct, frozen=True):
    """One layer; its encoded index has index_bytes."""

    digest: str
    raw_path: str | None
    index_bytes: int


class MergeJob(msgspec.Struct, frozen=True):
    """Layers, the lowest first; the memory file fd has their indexes, one after another."""

    fd: int
    layers: list[LayerToMerge]


def build(line: bytes) -> list[bytearray]:
    """The image index of the job, a MergeJob as JSON."""
    job = msgspec.json.decode(line, type=MergeJob)
    layers = job.layers
    with open(job.fd, "rb", closefd=False) as file:
        file.seek(0)
        indexes = [_decoded(file.read(layer.index_bytes)) for layer in layers]
    check_size(indexes)
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
    return [write_image(root, devices)]


def check_size(indexes: Sequence[LayerIndex]) -> None:
    """CorruptImage if an image of these layers takes more memory than a merge has."""
    entries = sum(index.entry_count for index in indexes)
    size = sum(len(index.raw_entries) for index in indexes)
    if entries > MAX_IMAGE_ENTRIES or size > MAX_IMAGE_ENTRY_BYTES:
        raise errors.CorruptImage(
            f"the image's {len(indexes)} layers have {entries} entries, {size >> 20} MiB of names, "
            f"links and xattrs; more than {MAX_IMAGE_ENTRIES}, or {MAX_IMAGE_ENTRY_BYTES >> 20} "
            "MiB, are refused; pack small files together"
        )


def raw_entry(path: str, index: LayerIndex) -> Entry:
    """The one file of a raw layer; CorruptImage if path, which a manifest says, is none."""
    try:
        name = normalised(path.encode())
    except (errors.CorruptImage, UnicodeEncodeError) as error:
        raise errors.CorruptImage(f"a layer's title is no path: {path[:120]!a}") from error
    if not name or name.rpartition(b"/")[2].startswith(WHITEOUT):
        raise errors.CorruptImage(f"a layer's title names no file: {path[:120]!a}")
    return Entry(path=name, kind=EntryKind.FILE, mode=0o644, size=index.payload_bytes)


def _decoded(data: bytes) -> LayerIndex:
    index = layer_index.decode(data)
    if index is None:
        raise errors.CorruptImage("a layer index is malformed")
    return index


if __name__ == "__main__":
    worker_main(build)
