"""One thread that receives segments of a blob, and the sources that all of them share.

A segment that breaks off goes on where it was; no other one is begun again for it. A lane that
never had an answer, or is told that the registry is busy, is one too many and ends, unless it
is the last one. A source that has no ranges, or answers with others than it was asked for, is
read by one lane in one stream.

Not here: requests (`download`); who gets which segment (`window`).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource
from clipfs.layer.blob.broken_off import BrokenOff
from clipfs.layer.blob.download import Download
from clipfs.layer.blob.window import Segment, Window
from clipfs.layer.job import Job, SourceWanted

BUSY_STATUS = frozenset({429, 503})
"""What registries, and proxies before them, answer where there are too many connections."""

_NO_RANGES_STATUS = frozenset({206, 416})
"""Refusals of a range that is in the blob; 206 with another one."""

NewSource = Callable[[SourceWanted], BlobSource]


class Sources:
    """The source in use, and a new one once it gives no more; whoever asks meanwhile waits."""

    def __init__(
        self,
        source: BlobSource,
        new_source: NewSource,
        window: Window,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._new_source = new_source
        self._window = window
        self._clock = clock
        self._turn = 0
        self._pause: tuple[BrokenOff, float] | None = None
        self._lock = threading.Lock()

    def take(self) -> tuple[BlobSource, int]:
        """The source, and which it is; not before the time that a busy registry has asked for."""
        with self._lock:
            if self._pause is not None:
                broken, until = self._pause
                self._pause = None
                if (left_s := until - self._clock()) > 0:
                    self._renew(broken, left_s)
            return self._source, self._turn

    def replace(self, turn: int, broken: BrokenOff) -> None:
        """Have a new source for the one that broke off, unless another lane got it already."""
        with self._lock:
            if turn == self._turn:
                self._renew(broken, broken.retry_after_s)

    def pause(self, broken: BrokenOff) -> None:
        """Let nobody ask before the time that broken states, if it does."""
        if broken.retry_after_s:
            with self._lock:
                self._pause = broken, self._clock() + broken.retry_after_s

    def _renew(self, broken: BrokenOff, retry_after_s: float | None) -> None:
        self._source = self._new_source(
            SourceWanted(
                code=broken.error.code,
                message=str(broken.error),
                at_bytes=self._window.received,
                retry_after_s=retry_after_s,
            )
        )
        self._turn += 1


@dataclass(slots=True, kw_only=True)
class Mode:
    """How all lanes ask: in ranges, or for all that follows.

    are_ranges_known  the source has answered one as it should
    is_wide           there are several lanes, so each asks for a segment at a time
    answers           that bytes came from; no other lane asks before the first has come
    """

    in_ranges: bool
    are_ranges_known: bool = False
    is_wide: bool = False
    answers: int = 0


class Lane:
    """Receives until nothing is left for it; run it in a thread of its own."""

    def __init__(self, job: Job, window: Window, sources: Sources, mode: Mode) -> None:
        self._job = job
        self._window = window
        self._sources = sources
        self._mode = mode
        self._download: Download | None = None
        self._turn = 0
        self._was_answered = False
        self._aborted = False

    def run(self) -> None:
        """Raises  CorruptImage; Stopped; what new_source raises"""
        try:
            while (segment := self._window.claim()) is not None:
                if not self._fetch(segment):
                    return
        finally:
            self._close()

    def abort(self) -> None:
        """End what the lane waits for; from another thread."""
        self._aborted = True
        if (download := self._download) is not None:
            download.abort()

    def _fetch(self, segment: Segment) -> bool:
        """Receive the whole segment, or one before it; False if the lane has ended instead."""
        while segment.at < segment.end:
            in_ranges = self._mode.in_ranges  # once a round: another lane may end it just now
            if not (in_ranges or self._is_under_way(segment)):
                if self._window.retire(segment):
                    return False
                segment = self._window.lowest(segment)  # so that one stream brings all
            try:
                if not self._receive(segment, in_ranges) and self._window.retire(segment):
                    return False
            except BrokenOff as broken:
                self._close()
                if self._mode.in_ranges and broken.status in _NO_RANGES_STATUS:
                    self._go_in_one_stream()
                if self._is_too_many(broken) and self._window.retire(segment):
                    self._sources.pause(broken)
                    return False
                self._sources.replace(self._turn, broken)
        return True

    def _is_under_way(self, segment: Segment) -> bool:
        """Whether the lane reads a stream that leads to segment; one of several begins none."""
        download = self._download
        return download is not None and self._leads_to(download, segment, in_ranges=False)

    def _is_too_many(self, broken: BrokenOff) -> bool:
        is_refused = broken.status in BUSY_STATUS or not self._was_answered
        return is_refused or not self._mode.in_ranges

    def _receive(self, segment: Segment, in_ranges: bool) -> bool:
        """Some of the segment or all of it; False if only one lane can be of use here."""
        download = self._download
        if download is None or not self._leads_to(download, segment, in_ranges):
            download = self._ask(segment, in_ranges)
            if not download.exact and in_ranges:
                self._go_in_one_stream()
                return False
            self._mode.are_ranges_known = self._mode.in_ranges
        while download.at < segment.at:  # another lane has received it
            if not download.read(segment.at - download.at):
                raise download.early()
        while segment.at < min(segment.end, download.ends):
            piece = download.read(segment.end - segment.at)
            if not piece:
                raise download.early()
            self._window.add(segment, piece)
        if segment.at == self._job.size and download.is_longer():
            raise errors.CorruptImage(
                f"the registry sends more than the {segment.at} bytes that it should have"
            )
        return True

    def _leads_to(self, download: Download, segment: Segment, in_ranges: bool) -> bool:
        """Whether what download reads now holds what segment lacks."""
        is_before = download.at == segment.at or (download.at < segment.at and not in_ranges)
        return is_before and segment.at < download.ends

    def _ask(self, segment: Segment, in_ranges: bool) -> Download:
        source, self._turn = self._sources.take()
        download = self._download
        if download is None or download.source != source:
            self._close()
            job = self._job
            download = self._download = Download(
                source, digest=Digest(job.digest), size=job.size, stall_s=job.stall_s
            )
            if self._aborted:
                download.abort()
        mode = self._mode
        end = segment.end if in_ranges and mode.is_wide else None
        download.ask(segment.at, end, in_ranges=in_ranges)
        self._was_answered = True
        mode.answers += 1
        return download

    def _go_in_one_stream(self) -> None:
        self._mode.in_ranges = False
        self._window.narrow()

    def _close(self) -> None:
        if self._download is not None:
            self._download.close()
            self._download = None
