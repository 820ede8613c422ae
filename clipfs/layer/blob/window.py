"""The part of a blob that is on its way: segments that several threads receive, one reads.

A lane is a thread that receives: it claims segments, in order, and adds their bytes. The reader
gets the bytes in order, and those of the first segment at once. Of all segments that have
begun at most AHEAD a lane are not read yet, which bounds the memory.

Not here: requests (`clipfs.layer.blob.lane`).
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from clipfs.layer.blob.starvation import Starvation
from clipfs.layer.pipeline import Stopped

AHEAD = 2
"""One that a lane receives, and one that waits for the reader, who may be at another lane's."""


@dataclass(slots=True, order=True)
class Segment:
    """Bytes up to `end` of a blob; `at` is the first that has not come."""

    at: int
    end: int
    pieces: deque[bytes] = field(default_factory=deque, compare=False)


class Window:
    """`received` counts the bytes that have come, each of them once."""

    def __init__(
        self, size: int, *, segment_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.received = 0
        self._size = size
        self._segment_bytes = segment_bytes
        self._begun = 0  # up to here segments have been claimed
        self._open: deque[Segment] = deque()  # claimed and not read to the end, in order
        self._loose: list[Segment] = []  # those of them that no lane has, a heap
        self._lanes = 1
        self._most_lanes = 1
        self._clock = clock
        self._starvation = Starvation()
        self._error: Exception | None = None
        self._stopped = False
        self._changed = threading.Condition()

    def claim(self) -> Segment | None:
        """What to receive next, waiting for room; None ends the lane."""
        with self._changed:
            self._changed.wait_for(self._may_claim)
            if self._stopped or self._lanes > self._most_lanes or self._is_all_claimed():
                self._lanes -= 1
                self._changed.notify_all()
                return None
            if self._loose:
                return heapq.heappop(self._loose)
            end = min(self._begun + self._segment_bytes, self._size)
            segment = Segment(self._begun, end)
            self._begun = end
            self._open.append(segment)
            return segment

    def add(self, segment: Segment, piece: bytes) -> None:
        """The next bytes of a claimed segment; Stopped if nobody will read them."""
        with self._changed:
            if self._stopped:
                raise Stopped
            segment.pieces.append(piece)
            segment.at += len(piece)
            self.received += len(piece)
            self._changed.notify_all()

    def widen(self, lanes: int) -> int:
        """Allow for so many lanes in all; how many to start now, as many as find work."""
        with self._changed:
            work = -(-(self._size - self._begun) // self._segment_bytes)
            self._most_lanes = lanes
            more = max(0, min(lanes - self._lanes, work))
            self._lanes += more
            return more

    def narrow(self) -> None:
        """From now on one lane: the others end with their segments."""
        with self._changed:
            self._most_lanes = 1
            self._changed.notify_all()

    def retire(self, segment: Segment) -> bool:
        """End a lane and give back its segment; False, and neither, for the last one."""
        with self._changed:
            if self._lanes == 1:
                return False
            heapq.heappush(self._loose, segment)
            self._lanes -= 1
            self._changed.notify_all()
            return True

    def lowest(self, segment: Segment) -> Segment:
        """segment, or instead of it the first one that no lane has."""
        with self._changed:
            return heapq.heappushpop(self._loose, segment)

    def get(self) -> bytes:
        """The blob's next bytes, waiting for them; b"" at its end; raises what failed."""
        with self._changed:
            begin = self._clock()
            self._changed.wait_for(self._may_get)
            if self._error is not None:
                raise self._error
            if self._stopped or not self._open:
                return b""
            now = self._clock()
            self._starvation.add(waited_s=now - begin, now_s=now)
            head = self._open[0]
            piece = head.pieces.popleft()
            if not head.pieces and head.at == head.end:
                self._open.popleft()
                self._changed.notify_all()
            return piece

    def is_starved(self) -> bool:
        """Whether the reader waits for bytes more than for its own work; it asks."""
        return self._starvation.is_met(self._clock())

    def stop(self, error: Exception | None = None) -> None:
        """Nothing more is received or read; the first error told is the reader's."""
        with self._changed:
            if not self._stopped:
                self._error = error
            self._stopped = True
            self._open.clear()
            self._changed.notify_all()

    def _is_all_claimed(self) -> bool:
        return self._begun == self._size and not self._loose

    def _may_claim(self) -> bool:
        return (
            self._stopped
            or self._lanes > self._most_lanes
            or bool(self._loose)
            or self._begun == self._size
            or len(self._open) < AHEAD * self._lanes
        )

    def _may_get(self) -> bool:
        return (
            self._stopped
            or (bool(self._open) and bool(self._open[0].pieces))
            or (not self._open and self._begun == self._size and self._lanes == 0)
        )
