"""The window over a blob, in whatever order its lanes and its reader come: no thread, no socket.

The model counts lanes and knows who may go on without waiting; who may not finds that it would.
"""

import random
import threading
from collections.abc import Callable
from typing import TypeVar
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clipfs.layer.blob.window import AHEAD, Segment, Window

BLOB = random.Random(3).randbytes(53)
MOST_LANES = 4


T = TypeVar("T")


class WouldWait(Exception):
    """Nobody else is here to wait for."""


class OneThread(threading.Condition):
    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        if not (found := predicate()):
            raise WouldWait
        return found


class WindowModel(RuleBasedStateMachine):
    @initialize(segment_bytes=st.integers(1, 20))
    def begin(self, segment_bytes: int) -> None:
        with patch.object(threading, "Condition", OneThread):
            self.window = Window(len(BLOB), segment_bytes=segment_bytes)
        self.segment_bytes = segment_bytes
        self.idle, self.held = 1, list[Segment]()
        self.loose = list[Segment]()
        self.allowed = self.widest = 1
        self.begun = 0
        self.received, self.read = 0, b""

    def lanes(self) -> int:
        return self.idle + len(self.held)

    def unread(self) -> int:
        """Segments that have begun and are not read to their end."""
        return -(-self.begun // self.segment_bytes) - (
            len(self.read) // self.segment_bytes
            if len(self.read) < len(BLOB)
            else -(-len(BLOB) // self.segment_bytes)
        )

    def may_claim(self) -> bool:
        ends = self.lanes() > self.allowed or self.begun == len(BLOB)
        has_room = self.unread() < AHEAD * self.lanes()
        return self.idle > 0 and (ends or bool(self.loose) or has_room)

    def may_get(self) -> bool:
        is_first_missing = any(
            one.at == len(self.read) for one in [*self.held, *self.loose] if one.at < one.end
        )
        return len(self.read) < self.begun and not is_first_missing

    def is_over(self) -> bool:
        return self.lanes() == 0 and len(self.read) == len(BLOB)

    @precondition(lambda self: self.idle)
    @rule()
    def claim(self) -> None:
        if not self.may_claim():
            with pytest.raises(WouldWait):
                self.window.claim()
            return
        segment = self.window.claim()
        self.idle -= 1
        if self.lanes() + 1 > self.allowed or (self.begun == len(BLOB) and not self.loose):
            assert segment is None
            return
        assert segment is not None
        if self.loose:
            assert segment is min(self.loose)
            self.loose.remove(segment)
        else:
            assert (segment.at, segment.end) == (
                self.begun,
                min(self.begun + self.segment_bytes, len(BLOB)),
            )
            self.begun = segment.end
        self.held.append(segment)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, MOST_LANES), count=st.sampled_from([1, 4, len(BLOB)]))
    def add(self, which: int, count: int) -> None:
        segment = self.held[which % len(self.held)]
        piece = BLOB[segment.at : min(segment.at + count, segment.end)]
        self.window.add(segment, piece)
        self.received += len(piece)
        if segment.at == segment.end:
            self.held.remove(segment)
            self.idle += 1

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, MOST_LANES))
    def retire(self, which: int) -> None:
        segment = self.held[which % len(self.held)]
        is_last = self.lanes() == 1
        assert self.window.retire(segment) is not is_last
        if not is_last:
            self.held.remove(segment)
            self.loose.append(segment)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, MOST_LANES))
    def exchange_for_the_lowest(self, which: int) -> None:
        segment = self.held.pop(which % len(self.held))
        self.loose.append(segment)
        found = self.window.lowest(segment)
        assert found is min(self.loose)
        self.loose.remove(found)
        self.held.append(found)

    @rule(lanes=st.integers(1, MOST_LANES))
    def widen(self, lanes: int) -> None:
        work = -(-(len(BLOB) - self.begun) // self.segment_bytes)
        more = self.window.widen(lanes)
        assert more == max(0, min(lanes - self.lanes(), work))
        self.idle += more
        self.allowed = lanes
        self.widest = max(self.widest, self.lanes())

    @rule()
    def narrow(self) -> None:
        self.window.narrow()
        self.allowed = 1

    @rule()
    def get(self) -> None:
        if not self.may_get() and not self.is_over():
            with pytest.raises(WouldWait):
                self.window.get()
            return
        piece = self.window.get()
        assert bool(piece) is not self.is_over()
        self.read += piece
        assert BLOB.startswith(self.read)

    @invariant()
    def what_has_come_is_counted_once_and_does_not_pile_up(self) -> None:
        assert self.window.received == self.received
        assert self.received - len(self.read) <= AHEAD * self.widest * self.segment_bytes

    def teardown(self) -> None:
        """However far it came: who goes on from here gets all of it, and every lane ends."""
        while not self.is_over():
            if self.held:
                self.add(0, len(BLOB))
            elif self.may_get():
                self.get()
            else:
                assert self.may_claim(), "nobody can go on"
                self.claim()
        assert self.window.get() == b""
        assert self.read == BLOB


TestWindow = WindowModel.TestCase
TestWindow.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
