"""The merge, in a process of its own: `python -m clipfs.tree.worker`.

Merging needs the whole tree in memory and is other people's data; the process that will
answer the kernel keeps neither. Loads no trio: it starts in half the time.

Not here: who runs it, and where its image goes (`clipfs.tree.build`).
"""

import os
from collections.abc import Iterator

import msgspec

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer import index as layer_index
from clipfs.layer.archive.names import normalised
from clipfs.layer.index import Entry, EntryKind, LayerIndex
from clipfs.layer.limits import MAX_IMAGE_ENTRIES, MAX_IMAGE_ENTRY_BYTES
from clipfs.system.child import ask, worker_main
from clipfs.system.durable import write_all
from clipfs.tree.job import IndexWanted, MergeJob, Place
from clipfs.tree.merge import WHITEOUT, merge
from clipfs.tree.sparse import layout_of
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image


def work(line: bytes) -> list[bytes]:
    """The place of the image index of the job, both as JSON; the job is a MergeJob.

    Each layer is merged once it is indexed.
    """
    job = msgspec.json.decode(line, type=MergeJob)
    indexes: list[LayerIndex] = []
    root = merge(_entries(job, indexes))
    devices = [
        Device(
            digest=Digest(layer.digest),
            payload_bytes=index.payload_bytes,
            sparse=layout_of(index.sparse),
        )
        for layer, index in zip(job.layers, indexes, strict=True)
    ]
    image = write_image(root, devices)
    place = Place(os.fstat(job.fd).st_size, len(image))
    write_all(job.fd, image, place.offset)
    return [msgspec.json.encode(place)]


def _entries(job: MergeJob, indexes: list[LayerIndex]) -> Iterator[list[Entry]]:
    """Layer by layer; indexes gets each one's index."""
    size = ImageSize()
    for number, layer in enumerate(job.layers):
        place = msgspec.json.decode(ask(IndexWanted(number)), type=Place)
        index = layer_index.decode(os.pread(job.fd, place.size, place.offset))
        if index is None:
            raise errors.CorruptImage("a layer index is malformed")
        size.add(index)
        indexes.append(index)
        yield index.entries() if layer.raw_path is None else [raw_entry(layer.raw_path, index)]


class ImageSize:
    """Refuses an image whose layers take more memory together than a merge has."""

    def __init__(self) -> None:
        self._layers = self._entries = self._bytes = 0

    def add(self, index: LayerIndex) -> None:
        """Count a layer; CorruptImage once they are too many entries, or bytes of them."""
        self._layers += 1
        self._entries += index.entry_count
        self._bytes += len(index.raw_entries)
        if self._entries > MAX_IMAGE_ENTRIES or self._bytes > MAX_IMAGE_ENTRY_BYTES:
            raise errors.CorruptImage(
                f"the image's first {self._layers} layers have {self._entries} entries, "
                f"{self._bytes >> 20} MiB of names, links and xattrs; more than "
                f"{MAX_IMAGE_ENTRIES}, or {MAX_IMAGE_ENTRY_BYTES >> 20} MiB, are refused; pack "
                "small files together"
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


if __name__ == "__main__":
    worker_main(work)
