"""The full pass over one layer, in a process of its own: `python -m clipfs.layer.worker`.

    download, blob digest -> inflate, tar entries -> write, chunk digests
                                                  -> payload digest

Each arrow is a bounded queue between threads; hashing, inflating and writing release the GIL.
In a first pass nothing is marked present before the end. In a fill, whose job carries the
chunk digests, each chunk is verified, written and marked at once, so that a reader waits for
its own chunks only.

Not here: locks, names, the seal (the parent's); retries.
"""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from blake3 import blake3

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer import index as layer_index
from clipfs.layer.codec import Bound, inflated
from clipfs.layer.download import Download
from clipfs.layer.index import CHUNK_BYTES, CHUNK_DIGEST_BYTES
from clipfs.layer.partial import mark_written, write_all
from clipfs.layer.process import report, worker_main
from clipfs.layer.tar import TarParser

QUEUE_PIECES = 8
"""Pieces of at most 1 MiB that wait between two threads; with three queues 24 MiB."""

REPORT_BYTES = 4 << 20
FILL_REPORT_BYTES = CHUNK_BYTES
"""How much payload lies between two progress lines; readers wait for those of a fill."""

T = TypeVar("T")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One pass. `chunk_digests` and `map_fd` make it a fill."""

    digest: str
    size: int
    diff_id: str
    url: str
    headers: dict[str, str]
    payload_fd: int
    ca_file: str | None = None
    map_fd: int | None = None
    chunk_digests: bytes | None = None


class Progress(msgspec.Struct, frozen=True):
    """A report line: blob bytes downloaded, payload bytes written (in a fill: verified)."""

    downloaded: int
    payload: int
    warning: str | None = None


class Pipe(Generic[T]):
    """A bounded queue between two threads; whichever side fails ends the other."""

    def __init__(self) -> None:
        self._queue: queue.Queue[T | None] = queue.Queue(QUEUE_PIECES)
        self._stopped = threading.Event()

    def put(self, item: T) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue
        raise BrokenPipeError("the next stage of the pass has failed")

    def end(self) -> None:
        self._queue.put(None)

    def stop(self) -> None:
        """The reading side gives up; the writing side's next put fails."""
        self._stopped.set()

    def __iter__(self) -> Iterator[T]:
        while (item := self._queue.get()) is not None:
            yield item


class Stage(threading.Thread):
    """One thread of the pipeline: consumes a pipe; its error is raised by `finish`."""

    def __init__(self, pipe: Pipe[bytes], consume: Callable[[bytes], None]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._consume = consume
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for piece in self._pipe:
                self._consume(piece)
        except Exception as error:
            self._error = error
            self._pipe.stop()

    def put(self, piece: bytes) -> None:
        """Hand on a piece, waiting while the pipe is full; raise what the stage failed of."""
        try:
            self._pipe.put(piece)
        except BrokenPipeError:
            assert self._error is not None
            raise self._error from None

    def finish(self) -> None:
        """Wait until everything put so far is consumed; raise what went wrong."""
        if self._error is None:
            self._pipe.end()
            self.join()
        if self._error is not None:
            raise self._error


class Source:
    """The blob as a file for the codec; a thread reads ahead and hashes what it read."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pipe: Pipe[bytes] = Pipe()
        self._hash = hashlib.sha256()
        self._kept = b""
        self._error: Exception | None = None
        self.downloaded = 0
        self._ended = False
        threading.Thread(target=self._download, daemon=True).start()

    def read(self, size: int = -1, /) -> bytes:
        if not self._kept and not self._ended:
            self._kept = next(iter(self._pipe), b"")
            self._ended = not self._kept
            if self._error is not None:
                raise self._error
        if 0 <= size < len(self._kept):
            piece, self._kept = self._kept[:size], self._kept[size:]
            return piece
        piece, self._kept = self._kept, b""
        return piece

    def check(self) -> None:
        """CorruptImage unless the whole blob was read and is the one that the manifest names."""
        while self.read():
            pass
        job, found = self._job, f"sha256:{self._hash.hexdigest()}"
        if found != job.digest:
            raise errors.CorruptImage(
                f"the registry sent another blob, {found} ({self.downloaded} bytes)"
            )

    def _download(self) -> None:
        job = self._job
        ca_file = Path(job.ca_file) if job.ca_file else None
        try:
            blob = Download(job.url, job.headers, ca_file=ca_file, digest=Digest(job.digest))
            while piece := blob.read(1 << 20):
                self._hash.update(piece)
                self.downloaded += len(piece)
                if self.downloaded > job.size:
                    raise errors.CorruptImage(
                        f"the registry sends more than the {job.size} bytes that it should have"
                    )
                self._pipe.put(piece)
            if self.downloaded < job.size:
                raise errors.RegistryUnavailable(
                    f"blob {job.digest}: the registry ended it after {self.downloaded} of "
                    f"{job.size} bytes; try again"
                )
        except Exception as error:
            self._error = error
        finally:
            self._pipe.end()


class ChunkWriter:
    """Payload in, chunks out: hashed, in a fill verified, written, and then marked."""

    def __init__(self, job: Job, source: Source) -> None:
        self._job = job
        self._source = source
        self._buffer = bytearray()
        self._reported = 0
        self._step = REPORT_BYTES if job.chunk_digests is None else FILL_REPORT_BYTES
        self.digests = bytearray()
        self.written = 0

    def take(self, piece: bytes) -> None:
        if not self._buffer and len(piece) % CHUNK_BYTES == 0:
            return self._store(piece)
        self._buffer += piece
        whole = len(self._buffer) // CHUNK_BYTES * CHUNK_BYTES
        if whole:
            data = bytes(memoryview(self._buffer)[:whole])
            del self._buffer[:whole]
            self._store(data)

    def close(self) -> None:
        if self._buffer:
            self._store(bytes(self._buffer))
        expected = self._job.chunk_digests
        if expected is not None and expected != self.digests:
            raise errors.CorruptImage("the payload is not as long as its index says")
        os.ftruncate(self._job.payload_fd, self.written)
        os.fdatasync(self._job.payload_fd)
        self._say()

    def _store(self, data: bytes) -> None:
        view, first = memoryview(data), self.written // CHUNK_BYTES
        count = -(-len(data) // CHUNK_BYTES)
        for at in range(0, len(data), CHUNK_BYTES):
            self.digests += blake3(view[at : at + CHUNK_BYTES]).digest()
        if self._job.chunk_digests is not None:
            self._verify(first, count)
        write_all(self._job.payload_fd, view, self.written)
        self.written += len(data)
        if self._job.map_fd is not None:
            mark_written(self._job.map_fd, range(first, first + count))
        if self.written - self._reported >= self._step:
            self._say()

    def _verify(self, first: int, count: int) -> None:
        assert self._job.chunk_digests is not None
        here = slice(first * CHUNK_DIGEST_BYTES, (first + count) * CHUNK_DIGEST_BYTES)
        if self._job.chunk_digests[here] != self.digests[here]:
            raise errors.CorruptImage(f"chunks from {first} on differ from the layer's index")

    def _say(self) -> None:
        self._reported = self.written
        report(Progress(self._source.downloaded, self.written))


def run_pass(job: Job) -> bytes:
    """The encoded, unsealed layer index; the payload is in the job's file, fsynced."""
    try:
        return _passed(job)
    except (errors.CorruptImage, errors.UnsupportedImage) as error:
        raise type(error)(f"layer {job.digest}: {error}") from error


def _passed(job: Job) -> bytes:
    source = Source(job)
    writer = ChunkWriter(job, source)
    payload_hash, parser, bound = hashlib.sha256(), TarParser(), Bound(job.size)
    stages = [Stage(Pipe(), payload_hash.update), Stage(Pipe(), writer.take)]
    for piece in inflated(source, warn=lambda words: report(Progress(0, 0, words))):
        bound.add(len(piece))
        for stage in stages:
            stage.put(piece)
        parser.feed(piece)
    source.check()
    parser.close()
    for stage in stages:
        stage.finish()
    diff_id = f"sha256:{payload_hash.hexdigest()}"
    if diff_id != job.diff_id:
        raise errors.CorruptImage(
            f"its payload is {diff_id}, but the config's diff_id is {job.diff_id}"
        )
    writer.close()
    return layer_index.encode(
        layer_index.make_index(
            payload_bytes=writer.written,
            diff_id=diff_id,
            chunk_digests=bytes(writer.digests),
            entries=parser.entries,
        )
    )


if __name__ == "__main__":
    worker_main(lambda line: run_pass(msgspec.json.decode(line, type=Job)))
