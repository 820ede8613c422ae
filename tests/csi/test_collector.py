"""The driver's collector: when it collects, and that nothing it meets reaches a call."""

import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs.cache.collect import Collected
from clipfs.cache.limits import Limits
from clipfs.layer.layout import Layout
from csi.collector import Collector
from tests.support.tier_stack import made_layout
from tests.support.wait import wait_for

LIMITS = Limits(max_bytes=0)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = made_layout(tmp_path)
    add(found)
    return found


def add(layout: Layout) -> None:
    """One layer that nobody uses."""
    layout.payload("sha256_" + "a" * 64).write_bytes(b"payload")


def test_room_is_made_at_once_if_there_is_a_limit(layout: Layout) -> None:
    Collector(layout, Limits()).make_room()
    assert len(os.listdir(layout.cache)) == 1
    Collector(layout, LIMITS).make_room()
    assert os.listdir(layout.cache) == []


def test_the_thread_collects_when_it_begins_and_when_it_is_told_to(layout: Layout) -> None:
    collector = Collector(layout, LIMITS)
    with collector.running():
        wait_for(lambda: os.listdir(layout.cache) == [])
        add(layout)
        collector.soon()
        wait_for(lambda: os.listdir(layout.cache) == [])
    assert "collector" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("error", "level"),
    [
        pytest.param(OSError(5, "planted"), "warning", id="disk"),
        pytest.param(ValueError("planted"), "error", id="bug"),
    ],
)
def test_a_collection_that_fails_is_a_line_in_the_log_and_the_next_is_tried(
    error: Exception, level: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def fails(*_: object) -> Collected:
        nonlocal tried
        tried += 1
        raise error

    monkeypatch.setattr("csi.collector.collect", fails)
    collector = Collector(layout, LIMITS)
    with capture_logs() as lines:
        collector.make_room()
        with collector.running():
            wait_for(lambda: tried == 2)
            collector.soon()
            wait_for(lambda: tried == 3)
    assert [line["log_level"] for line in lines] == [level] * 3
