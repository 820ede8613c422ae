"""A blob on its way, as a file for the codec: a thread reads ahead, counts and hashes.

Not here: the request itself (`clipfs.layer.download`); what the bytes mean (`codec`).
"""

import hashlib
import threading
from contextlib import closing

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.layer.download import Download
from clipfs.layer.job import Job
from clipfs.layer.pipeline import Pipe

READ_BYTES = 1 << 20


class Source:
    """One job's blob. `downloaded` counts the bytes that have arrived."""

    def __init__(self, job: Job) -> None:
        self.downloaded = 0
        self._job = job
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
        job = self._job
        with closing(Download(job.url, job.headers, digest=Digest(job.digest))) as blob:
            while piece := blob.read(READ_BYTES):
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
