"""The full pass over one layer, in a process of its own: `python -m clipfs.layer.worker`.

    download, blob digest -> inflate, tar entries -> write, chunk digests
                                                  -> payload digest

Each arrow is a bounded pipe between threads. In a first pass nothing is visible before the
end. In a fill, whose job carries the chunk digests, each chunk is verified, written and marked
at once, so that a reader waits for its own chunks only. A proof is the first arrow alone: the blob
has the layer's digest or not, and what it holds is not looked at.

Not here: locks, names, the seal, and where to go on when a download breaks off (the parent's).
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing

import msgspec

from clipfs import errors
from clipfs.image.model import BlobSource
from clipfs.layer import index as layer_index
from clipfs.layer.archive.tar import TarParser
from clipfs.layer.blob.download import READ_BYTES
from clipfs.layer.blob.source import Source
from clipfs.layer.chunks import REPORT_BYTES, REPORT_S, ChunkWriter
from clipfs.layer.codec import Bound, inflated
from clipfs.layer.index import PackedEntries
from clipfs.layer.job import BlobIsWrong, Job, PassProgress, PassWarning, SourceWanted
from clipfs.layer.pipeline import Stage
from clipfs.system.child import TOO_LARGE, ask, report, worker_main


def run_pass(job: Job) -> list[bytes | memoryview]:
    """The encoded, unsealed layer index in parts; the payload is in the job's file, fsynced.

    Of a proof: nothing.
    """
    try:
        with closing(Source(job, new_source=_new_source)) as source:
            try:
                if job.payload_fd is None:
                    return _received(source)
                return _passed(job, job.payload_fd, source)
            except (errors.CorruptImage, errors.UnsupportedImage):
                if job.tells_wrong or source.is_pieced:
                    _tell_if_wrong(source)
                raise
    except (errors.CorruptImage, errors.UnsupportedImage) as error:
        raise type(error)(f"layer {job.digest}: {error}") from error
    except MemoryError as error:
        raise errors.CorruptImage(f"layer {job.digest}: {TOO_LARGE}") from error


def _tell_if_wrong(source: Source) -> None:
    """Whose fault it is that the blob is of no use: the image's, or the source's."""
    try:
        source.check()
    except errors.CorruptImage:
        report(BlobIsWrong())
        raise


def _received(source: Source) -> list[bytes | memoryview]:
    reported, reported_s = 0, time.monotonic()
    while source.read(READ_BYTES):
        now = time.monotonic()
        if source.downloaded - reported >= REPORT_BYTES or now - reported_s >= REPORT_S:
            reported, reported_s = source.downloaded, now
            report(PassProgress(downloaded_bytes=reported, payload_bytes=0))
    source.check()
    return []


def _passed(job: Job, payload_fd: int, source: Source) -> list[bytes | memoryview]:
    entries, bound = PackedEntries(), Bound(job.size)
    parser = None if job.is_raw else TarParser(entries.append)

    def on_written(payload_bytes: int) -> None:
        report(PassProgress(downloaded_bytes=source.downloaded, payload_bytes=payload_bytes))

    writer = ChunkWriter(job, payload_fd, on_written=on_written)
    payload_hash = hashlib.sha256()
    stages = [Stage(payload_hash.update), Stage(writer.take)]
    for piece in _payload(source, job):
        bound.add(len(piece))
        for stage in stages:
            stage.put(piece)
        if parser is not None:
            parser.feed(piece)
    source.check()
    if parser is not None:
        parser.close()
    for stage in stages:
        stage.finish()
    diff_id = f"sha256:{payload_hash.hexdigest()}"
    if job.diff_id is not None and diff_id != job.diff_id:
        raise errors.CorruptImage(
            f"its payload is {diff_id}, but the config's diff_id is {job.diff_id}"
        )
    writer.close()
    return layer_index.encoded_parts(
        layer_index.make_index(
            payload_bytes=writer.written,
            diff_id=diff_id,
            chunk_digests=bytes(writer.digests),
            entries=entries,
            sparse=parser.sparse if parser is not None else (),
        )
    )


def _payload(source: Source, job: Job) -> Iterator[bytes]:
    if job.is_raw:
        return iter(lambda: source.read(READ_BYTES), b"")
    return inflated(source, warn=lambda text: report(PassWarning(text)))


def _new_source(wanted: SourceWanted) -> BlobSource:
    return msgspec.json.decode(ask(wanted), type=BlobSource)


def work(line: bytes) -> list[bytes | memoryview]:
    """A pass, as its `Job` says."""
    return run_pass(msgspec.json.decode(line, type=Job))


if __name__ == "__main__":
    worker_main(work)
