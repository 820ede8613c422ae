"""A blob on its way, as a file for the codec: lanes read ahead, a stage hashes.

A blob is one stream as long as it is the codec that takes the time. A large one is read in
ranges by several lanes, with a connection each, once the codec waits for bytes. The digest is
of all bytes in their order, whichever source sent them.

Not here: who receives which part (`window`), and how (`lane`); what the bytes mean
(`clipfs.layer.codec`).
"""

import hashlib
import threading
import time
from collections.abc import Callable

from clipfs import errors
from clipfs.layer.blob.lane import Lane, Mode, NewSource, Sources
from clipfs.layer.blob.window import Window
from clipfs.layer.job import Job
from clipfs.layer.pipeline import Stage, Stopped


class Source:
    """One job's blob; close it."""

    def __init__(
        self, job: Job, *, new_source: NewSource, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """new_source  may take its time, and does not return if there is none"""
        self._job = job
        ranges = job.ranges
        self._window = Window(job.size, segment_bytes=ranges.segment_bytes, clock=clock)
        self._sources = Sources(job.source, new_source, self._window, clock=clock)
        self._mode = Mode(in_ranges=ranges.apply_to(job.size))
        self._lanes: list[Lane] = []
        self._hash = hashlib.sha256()
        self._hashing = Stage(self._hash.update)
        self._kept = b""
        self._start_lane()

    @property
    def downloaded(self) -> int:
        """Bytes that have come, in whatever order, each counted once."""
        return self._window.received

    @property
    def is_pieced(self) -> bool:
        """Whether a blob that is asked for in ranges has come in more than one."""
        return self._job.ranges.apply_to(self._job.size) and self._mode.answers > 1

    def read(self, size: int = -1, /) -> bytes:
        """At most size bytes, b"" at the end; raises what the download failed of."""
        piece, self._kept = self._kept, b""
        if not piece and (piece := self._window.get()):
            self._hashing.put(piece)
            self._widen()
        if 0 <= size < len(piece):
            piece, self._kept = piece[:size], piece[size:]
        return piece

    def check(self) -> None:
        """Read to the end; CorruptImage unless it is the blob that the manifest names."""
        while self.read():
            pass
        self._hashing.finish()
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._job.digest:
            raise errors.CorruptImage(
                f"the registry sent a wrong blob, {found} ({self.downloaded} bytes)"
            )

    def close(self) -> None:
        """End the lanes and what they wait for; does not wait for them."""
        self._end(None)
        self._hashing.stop()

    def _start_lane(self) -> None:
        lane = Lane(self._job, self._window, self._sources, self._mode)
        self._lanes.append(lane)
        threading.Thread(target=self._run, args=(lane,), daemon=True, name="lane").start()

    def _widen(self) -> None:
        """Start the other lanes, if they can be of use; once."""
        mode = self._mode
        if mode.are_ranges_known and not mode.is_wide and self._window.is_starved():
            self._mode.is_wide = True
            for _ in range(self._window.widen(self._job.ranges.connections)):
                self._start_lane()

    def _run(self, lane: Lane) -> None:
        try:
            lane.run()
        except Stopped:
            pass
        except Exception as error:  # the reader raises it
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._window.stop(error)
        for lane in list(self._lanes):
            lane.abort()
