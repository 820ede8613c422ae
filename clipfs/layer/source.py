"""A blob on its way, as a file for the codec: a thread reads ahead, counts and hashes.

A download that breaks off goes on where it was, from the source that `new_source` gives; the
digest is of all bytes, whichever source sent them.

Not here: the request itself (`clipfs.layer.download`); what the bytes mean (`codec`).
"""

import hashlib
import threading
from collections.abc import Callable
from contextlib import closing

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource
from clipfs.layer.download import BrokenOff, Download
from clipfs.layer.job import Job, SourceWanted
from clipfs.layer.pipeline import Pipe

READ_BYTES = 1 << 20
"""At a time; of a connection that dies in the middle of them, they are asked for again."""


class Source:
    """One job's blob. `downloaded` counts the bytes that have arrived."""

    def __init__(self, job: Job, *, new_source: Callable[[SourceWanted], BlobSource]) -> None:
        """new_source  may take its time, and does not return if there is none"""
        self.downloaded = 0
        self._job = job
        self._new_source = new_source
        self._pipe: Pipe[bytes] = Pipe()
        self._hash = hashlib.sha256()
        self._kept = b""
        self._error: Exception | None = None
        threading.Thread(target=self._download, daemon=True).start()

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, b"" at the end; raises what the download failed of."""
        piece = self._kept or self._pipe.get() or b""
        self._kept = b""
        if not piece and self._error is not None:
            raise self._error
        if 0 <= size < len(piece):
            piece, self._kept = piece[:size], piece[size:]
        return piece

    def check(self) -> None:
        """Read to the end; CorruptImage unless it is the blob that the manifest names."""
        while self.read():
            pass
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._job.digest:
            raise errors.CorruptImage(
                f"the registry sent another blob, {found} ({self.downloaded} bytes)"
            )

    def _download(self) -> None:
        try:
            self._read_blob()
        except Exception as error:  # the reader raises it
            self._error = error
        finally:
            self._pipe.end()

    def _read_blob(self) -> None:
        source = self._job.source
        while True:
            try:
                return self._read_from(source)
            except BrokenOff as broken:
                source = self._new_source(
                    SourceWanted(
                        code=broken.error.code,
                        message=str(broken.error),
                        at_bytes=self.downloaded,
                        retry_after_s=broken.retry_after_s,
                    )
                )

    def _read_from(self, source: BlobSource) -> None:
        job = self._job
        download = Download(
            source, digest=Digest(job.digest), offset=self.downloaded, stall_s=job.stall_s
        )
        with closing(download) as blob:
            while piece := blob.read(READ_BYTES):
                self._hash.update(piece)
                self.downloaded += len(piece)
                if self.downloaded > job.size:
                    raise errors.CorruptImage(
                        f"the registry sends more than the {job.size} bytes that it should have"
                    )
                self._pipe.put(piece)
        if self.downloaded < job.size:
            raise BrokenOff(
                errors.RegistryUnavailable(
                    f"blob {job.digest}: the registry ended it after {self.downloaded} of "
                    f"{job.size} bytes; try again"
                )
            )
