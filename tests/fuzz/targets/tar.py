"""The tar parser, PAX and all: however it is cut, and as Python's `tarfile` has it.

What is read goes on through merge, writer and reader: a layer that is taken makes an image
that can be read, or is refused when it is merged.
"""

import zlib
from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from clipfs import errors
from clipfs.layer import index as layer_index
from clipfs.layer.archive.tar import TarParser
from clipfs.layer.index import CHUNK_BYTES, CHUNK_DIGEST_BYTES, Entry, EntryKind, PackedEntries
from clipfs.layer.limits import MAX_COMPONENT_BYTES, MAX_XATTR_BYTES
from clipfs.layer.sparse import SparseMap
from tests.fuzz import archives, tar_oracle
from tests.fuzz.downstream import read_back
from tests.fuzz.judge import Mutate, Outcome, expect, expect_plain, expect_same
from tests.layer.tars import BLOCK

SEEDS: list[Callable[[], Iterable[bytes]]] = [
    archives.written_by_python,
    archives.written_by_hand,
    archives.sparse_of_gnu_tar,
]
"""Makers of archives to begin with; a new kind of member adds one."""


class Read(NamedTuple):
    """What a parser says. error  None of an archive that it took"""

    entries: list[Entry]
    sparse: list[SparseMap]
    error: str | None


def seeds() -> Iterable[bytes]:
    return [archive for maker in SEEDS for archive in maker()]


def run(data: bytes) -> Outcome:
    read = _read(data, len(data) or 1)
    expect_same(_read(data, 1 + zlib.crc32(data) % 1500), read, "it matters how it is cut")
    for entry in read.entries:
        _holds(entry, len(data))
    if read.error is not None:
        return Outcome.REFUSED if tar_oracle.begins(data) else Outcome.STOPPED
    members = tar_oracle.members(data)
    if members is not None:
        tar_oracle.compare(read.entries, read.sparse, members)
    index = layer_index.make_index(
        payload_bytes=len(data),
        diff_id="",
        chunk_digests=bytes(-(-len(data) // CHUNK_BYTES) * CHUNK_DIGEST_BYTES),
        entries=PackedEntries(read.entries),
        sparse=read.sparse,
    )
    kept = layer_index.decode(layer_index.encode(index))
    expect_same(kept, index, "an index, and what is read of its bytes")
    expect_same(index.entries(), read.entries, "entries in an index, and read back")
    read_back(read.entries, len(data), read.sparse)
    return Outcome.READ


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    return archives.mutated(data, random, blind, max_bytes)


def _read(data: bytes, piece_bytes: int) -> Read:
    entries: list[Entry] = []
    parser = TarParser(entries.append)
    try:
        for at in range(0, len(data), piece_bytes):
            parser.feed(data[at : at + piece_bytes])
        parser.close()
    except (errors.CorruptImage, errors.UnsupportedImage) as error:
        expect_plain(error)
        return Read(entries, list(parser.sparse), f"{type(error).__name__}: {error}")
    return Read(entries, list(parser.sparse), None)


def _holds(entry: Entry, payload_bytes: int) -> None:
    parts = entry.path.split(b"/") if entry.path else []
    expect(all(0 < len(part) <= MAX_COMPONENT_BYTES for part in parts), "a component's length")
    expect(b"." not in parts and b".." not in parts and b"\0" not in entry.path, "an odd path")
    expect(0 <= entry.mode <= 0o7777, "a mode out of range")
    expect(0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32, "an owner out of range")
    expect(0 <= entry.mtime_ns < 10**9, "nanoseconds out of range")
    expect(-(1 << 63) <= entry.mtime_s < 1 << 63, "a time out of range")
    expect(entry.payload_offset % BLOCK == 0 and entry.payload_offset >= 0, "an offset")
    is_file = entry.kind in (EntryKind.FILE, EntryKind.SPARSE)
    expect(entry.size >= 0 and (entry.size == 0 or is_file), "a size")
    expect(bool(entry.target) <= (entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK)), "target")
    expect(0 <= entry.rdev_major < 1 << 12 and 0 <= entry.rdev_minor < 1 << 20, "a device")
    names = [name for name, _ in entry.xattrs]
    expect(names == sorted(set(names)), "xattrs in disorder")
    expect(sum(len(name) + len(value) for name, value in entry.xattrs) <= MAX_XATTR_BYTES, "xattrs")
