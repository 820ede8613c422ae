"""A payload on its way: a sparse file, and a map of which of its chunks are there.

`sha256_<layer>.chunks` is 64 bytes of header and one byte a chunk: ABSENT, WRITTEN (the data
is in the page cache of the boot that the header names) or DURABLE (it was fsynced before the
byte was written). After a reboot WRITTEN counts as ABSENT, so a map never promises data that
a power cut has taken. One byte a chunk, written with pwrite: processes share a map without
a lock. A map speaks of one file, told by its length: a payload file gets it only after its map
was emptied, so a map that outlived its file (a power cut, a rename half undone) is not believed.
A first pass, whose bytes nobody can judge before its end, writes to a file that has no map.
`filling` makes one process at a time the layer's filler on this node, for each registry.

Not here: which bytes are right (`clipfs.layer.index`); who fills (`clipfs.tiers`).
"""

import enum
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES
from clipfs.layer.layout import Layout
from clipfs.system.cached import open_cached, replace
from clipfs.system.durable import naming, sync_folder, write_all
from clipfs.system.locks import alone, same_file, together
from clipfs.system.processes import boot_id

MAP_HEADER_BYTES = 64
MAP_MAGIC = b"CLIPMAP1"
_ABSENT_RUN = re.compile(rb"\x00+")
_WRITTEN_RUN = re.compile(rb"\x01+")


class ChunkState(enum.IntEnum):
    ABSENT = 0
    WRITTEN = 1
    DURABLE = 2


def mark_written(map_fd: int, chunks: range) -> None:
    """Say that the data of chunks is in the payload file; call it after the data's pwrite."""
    _mark(map_fd, chunks, ChunkState.WRITTEN)


def sync_chunks(payload_fd: int, map_fd: int | None, written: Iterable[range]) -> None:
    """Make the payload file's data durable; where the disk cannot, chunks are absent again.

    Which of them reached the disk nobody knows then, and the next fsync would not say so.
    """
    try:
        with naming(payload_fd):
            os.fdatasync(payload_fd)
    except OSError:
        if map_fd is not None:
            for chunks in written:
                _mark(map_fd, chunks, ChunkState.ABSENT)
        raise


class Partial:
    """One layer's partial payload, open. Its chunks are shared with other processes."""

    def __init__(self, layout: Layout, key: str, *, payload_bytes: int) -> None:
        """Open it, or make it empty; what an earlier boot did not make durable is dropped."""
        self.key = key
        self.payload_bytes = payload_bytes
        self.chunk_count = -(-payload_bytes // CHUNK_BYTES)
        self._layout = layout
        self._complete = False
        with ExitStack() as opened:
            self.payload_fd = _opened(layout.partial_payload(key), opened)
            self.map_fd = _opened(layout.chunk_map(key), opened)
            with _locked(self.payload_fd):
                self._open_map()
            opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.payload_fd)
        os.close(self.map_fd)

    def missing(self, chunks: range) -> list[range]:
        """The runs of chunks that are not there, ascending; empty if all are."""
        if self._complete:
            return []
        states = os.pread(self.map_fd, len(chunks), MAP_HEADER_BYTES + chunks.start)
        runs = _ABSENT_RUN.finditer(states.ljust(len(chunks), b"\0"))
        return [range(chunks.start + run.start(), chunks.start + run.end()) for run in runs]

    def is_complete(self) -> bool:
        self._complete = self._complete or not self.missing(range(self.chunk_count))
        return self._complete

    def write(self, chunks: range, data: bytes | bytearray | memoryview) -> None:
        """Store verified data of whole chunks (the payload's last one may be short)."""
        write_all(self.payload_fd, data, chunks.start * CHUNK_BYTES)
        mark_written(self.map_fd, chunks)

    def sync(self) -> None:
        """Make durable what is written; the data reaches the disk before the map says so."""
        states = os.pread(self.map_fd, self.chunk_count, MAP_HEADER_BYTES)
        written = [range(*run.span()) for run in _WRITTEN_RUN.finditer(states)]
        if not written:
            return
        try:
            sync_chunks(self.payload_fd, self.map_fd, written)
        except OSError:
            self._complete = False
            raise
        for chunks in written:
            _mark(self.map_fd, chunks, ChunkState.DURABLE)
        _sync_map(self.map_fd)

    def promote(self) -> None:
        """Make a complete partial the payload in `cache/`; harmless if another process has.

        Raises  NodeFault if it is not complete, or not any more; OSError
        """
        if not self.is_complete():
            raise errors.NodeFault(
                f"partial payload {self.key} is not complete: chunks were lost; the next mount "
                "fetches them again"
            )
        self.sync()
        with _locked(self.payload_fd):
            here = self._layout.partial_payload(self.key)
            if same_file(here, self.payload_fd):
                _move_to_cache(self._layout, self.key, here)
            if same_file(self._layout.chunk_map(self.key), self.map_fd):
                self._layout.chunk_map(self.key).unlink(missing_ok=True)
        sync_folder(self._layout.partial)

    def _open_map(self) -> None:
        length = self.payload_bytes.to_bytes(8, "little")
        header = MAP_MAGIC + boot_id().encode() + length
        found = os.pread(self.map_fd, len(header), 0)
        is_ours = os.fstat(self.payload_fd).st_size == self.payload_bytes
        if found == header and is_ours:
            return
        is_whole = len(found) == len(header)
        is_ours &= is_whole and found.startswith(MAP_MAGIC) and found.endswith(length)
        if not is_ours:
            with naming(self.map_fd):
                os.ftruncate(self.map_fd, 0)
            _sync_map(self.map_fd)
            with naming(self.payload_fd):
                os.ftruncate(self.payload_fd, self.payload_bytes)
        states = os.pread(self.map_fd, self.chunk_count, MAP_HEADER_BYTES)
        kept = bytes(s if s == ChunkState.DURABLE else ChunkState.ABSENT for s in states)
        write_all(self.map_fd, kept.ljust(self.chunk_count, b"\0"), MAP_HEADER_BYTES)
        _sync_map(self.map_fd)  # before the header claims these states for this boot
        write_all(self.map_fd, header, 0)
        _sync_map(self.map_fd)


def publish_first_pass(layout: Layout, key: str, written: Path) -> None:
    """Rename what a first pass has written, complete, verified and fsynced, into `cache/`."""
    _move_to_cache(layout, key, written)
    forget_partial(layout, key)
    sync_folder(layout.partial)


def forget_partial(layout: Layout, key: str) -> None:
    """Remove the partial payload of a layer that is in `cache/`; its readers keep it open."""
    layout.chunk_map(key).unlink(missing_ok=True)
    layout.partial_payload(key).unlink(missing_ok=True)


def _move_to_cache(layout: Layout, key: str, file: Path) -> None:
    os.chmod(file, 0o400)
    replace(file, layout.payload(key))
    sync_folder(layout.cache)


@contextmanager
def filling(layout: Layout, key: str, record: str) -> Iterator[bool]:
    """Try to become the one filler of a layer on this node that earns the origin record of this
    name: True while held, False if taken.

    By record, and so by registry: each has to deliver the blob itself, and one that stalls is to
    hold up nobody who asks another. Two of them write the same verified bytes.
    """
    with alone(layout.proof_lock(record)) as mine:
        if not mine:
            yield False
            return
        with together(layout.fill_lock(key)) as stays:
            yield stays


@contextmanager
def fill_lock(layout: Layout, key: str) -> Iterator[bool]:
    """Try to keep all fillers of a layer away on this node: True while held, False if one fills."""
    with alone(layout.fill_lock(key)) as mine:
        yield mine


def _mark(map_fd: int, chunks: range, state: ChunkState) -> None:
    write_all(map_fd, bytes([state]) * len(chunks), MAP_HEADER_BYTES + chunks.start)


def _sync_map(map_fd: int) -> None:
    with naming(map_fd):
        os.fdatasync(map_fd)


def _opened(path: Path, stack: ExitStack) -> int:
    """The file, made if absent; the stack closes it."""
    fd = open_cached(path, os.O_RDWR | os.O_CREAT)
    assert fd is not None  # O_CREAT
    stack.callback(os.close, fd)
    return fd


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    """Among processes that hold this file open, one at a time; for moments only."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
