"""Payload in, chunks out: each is hashed, in a fill verified, written, and then marked.

In a first pass nothing is marked: no chunk is right before the digests of the whole are. In a
fill every chunk has a digest to meet, so it can be read by others as soon as it is written.
"""

import os
import time
from collections.abc import Callable

from blake3 import blake3

from clipfs import errors
from clipfs.layer.index import CHUNK_BYTES, CHUNK_DIGEST_BYTES
from clipfs.layer.job import Job
from clipfs.layer.partial import mark_written, sync_chunks
from clipfs.system.durable import naming, write_all

REPORT_BYTES = 4 << 20
FILL_REPORT_BYTES = CHUNK_BYTES
"""How much payload lies between two progress reports; readers wait for those of a fill."""

REPORT_S = 1
"""From a slow registry that much takes minutes, and people look on."""


class ChunkWriter:
    """Writes one job's payload; `digests` and `written` say what it got so far."""

    def __init__(self, job: Job, payload_fd: int, *, on_written: Callable[[int], None]) -> None:
        """payload_fd  the job's, where it has one
        on_written  told the payload bytes written so far, now and then and at the end
        """
        self.digests = bytearray()
        self.written = 0
        self._job = job
        self._payload_fd = payload_fd
        self._on_written = on_written
        self._head = bytearray()  # of a chunk that is not whole yet
        self._reported, self._reported_s = 0, time.monotonic()
        self._step = REPORT_BYTES if job.chunk_digests is None else FILL_REPORT_BYTES

    def take(self, piece: bytes) -> None:
        """The payload's next piece; CorruptImage if a chunk is not what a fill wants."""
        view = memoryview(piece)
        if self._head:
            lack = CHUNK_BYTES - len(self._head)
            self._head += view[:lack]
            view = view[lack:]
            if len(self._head) < CHUNK_BYTES:
                return
            self._store(memoryview(self._head))
            self._head = bytearray()
        whole = len(view) // CHUNK_BYTES * CHUNK_BYTES
        if whole:
            self._store(view[:whole])
        self._head += view[whole:]

    def close(self) -> None:
        """Write the last, short chunk, and make the payload durable."""
        if self._head:
            self._store(memoryview(self._head))
        expected = self._job.chunk_digests
        if expected is not None and expected != self.digests:
            raise errors.CorruptImage("the payload is not as long as its index says")
        with naming(self._payload_fd):
            os.ftruncate(self._payload_fd, self.written)
        chunks = range(len(self.digests) // CHUNK_DIGEST_BYTES)
        sync_chunks(self._payload_fd, self._job.map_fd, [chunks])
        self._on_written(self.written)

    def _store(self, chunks: memoryview) -> None:
        first, count = self.written // CHUNK_BYTES, -(-len(chunks) // CHUNK_BYTES)
        for at in range(0, len(chunks), CHUNK_BYTES):
            self.digests += blake3(chunks[at : at + CHUNK_BYTES]).digest()
        if self._job.chunk_digests is not None:
            self._verify(first, count)
        write_all(self._payload_fd, chunks, self.written)
        self.written += len(chunks)
        if self._job.map_fd is not None:
            mark_written(self._job.map_fd, range(first, first + count))
        now = time.monotonic()
        if self.written - self._reported >= self._step or now - self._reported_s >= REPORT_S:
            self._reported, self._reported_s = self.written, now
            self._on_written(self.written)

    def _verify(self, first: int, count: int) -> None:
        assert self._job.chunk_digests is not None
        here = slice(first * CHUNK_DIGEST_BYTES, (first + count) * CHUNK_DIGEST_BYTES)
        if self._job.chunk_digests[here] != self.digests[here]:
            raise errors.CorruptImage(f"chunks from {first} on differ from the layer's index")
