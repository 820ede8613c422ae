"""Layers with sparse members, as entries, maps and the payload behind them."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clipfs.layer.index import Entry, EntryKind
from clipfs.layer.sparse import SparseMap
from clipfs.tree.merge import merge
from clipfs.tree.sparse import SparseLayout, layout_of
from clipfs.tree.superblock import Device
from clipfs.tree.writer import write_image
from tests.support.entries import devices_of


@dataclass
class SparseLayer:
    """Grows by `add`; payload bytes are never zero, so that holes are told from data."""

    entries: list[Entry] = field(default_factory=list)
    maps: list[SparseMap] = field(default_factory=list)
    payload: bytearray = field(default_factory=lambda: bytearray(b"head" * 128))

    def add(self, path: bytes, size: int, runs: Sequence[tuple[int, int]]) -> Entry:
        """A file of size bytes with data in runs, ascending and apart."""
        start = len(self.payload) if runs else 0
        total = sum(length for _, length in runs)
        self.payload += bytes(1 + (start + at * 7) % 251 for at in range(total))
        self.payload += b"pad!" * 128
        del self.payload[len(self.payload) // 512 * 512 :]
        if runs:
            packed = b"".join(struct.pack("<QQ", *run) for run in runs)
            self.maps.append(SparseMap(size, start, packed))
        entry = Entry(path=path, kind=EntryKind.SPARSE, mode=0o644, size=size, payload_offset=start)
        self.entries.append(entry)
        return entry

    def content(self, entry: Entry) -> bytes:
        """What the file holds."""
        return content_of(entry, self.maps, self.payload)

    @property
    def layout(self) -> SparseLayout | None:
        return layout_of(self.maps)


def content_of(entry: Entry, maps: Iterable[SparseMap], payload: bytes | bytearray) -> bytes:
    """What a file holds: the payload's runs, and zeros between them."""
    if entry.kind == EntryKind.FILE:
        return bytes(payload[entry.payload_offset :][: entry.size])
    data = bytearray(entry.size)
    for one in maps:
        if one.payload_offset == entry.payload_offset:
            assert one.size == entry.size
            for run in one.extents():
                data[run.offset : run.end] = payload[run.payload_offset :][: run.length]
    return bytes(data)


def sparse_image(layers: Sequence[SparseLayer]) -> bytes:
    """The image index of layers, the lowest first."""
    devices = [
        Device(digest=one.digest, payload_bytes=len(layer.payload), sparse=layer.layout)
        for one, layer in zip(devices_of(len(layers)), layers, strict=True)
    ]
    return bytes(write_image(merge(layer.entries for layer in layers), devices))


def sparse_file_of(layer: SparseLayer) -> bytes:
    """The device of a layer's sparse files, made without the product's own maker."""
    assert layer.layout is not None
    data = bytearray(layer.layout.size_bytes)
    data[:512] = layer.layout.head
    for run in layer.layout.runs():
        assert not any(data[run.offset : run.offset + run.length])  # no two runs share a place
        data[run.offset : run.offset + run.length] = layer.payload[run.payload_offset :][
            : run.length
        ]
    return bytes(data)
