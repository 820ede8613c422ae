"""Progress where there is no terminal: a line a layer every few seconds, no more."""

from dataclasses import dataclass, field

import structlog.testing

from clipfs.cli.progress import LINE_INTERVAL_S, Lines
from clipfs.image.digest import Digest
from clipfs.image.model import Layer
from clipfs.layer.job import PassProgress


@dataclass
class Clock:
    now: float = 1000.0
    seen: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


def layer(number: int, size: int) -> Layer:
    digest = Digest(f"sha256:{number:064x}")
    return Layer(digest=digest, size=size, media_type="x", diff_id=digest)


def at(downloaded: int) -> PassProgress:
    return PassProgress(downloaded_bytes=downloaded, payload_bytes=0)


def test_a_long_pass_says_how_far_it_is_every_few_seconds() -> None:
    clock = Clock()
    lines = Lines(clock)
    with structlog.testing.capture_logs() as logged:
        for step in range(4 * LINE_INTERVAL_S):
            lines.on_progress(layer(1, 2000), at(step * 100))
            clock.now += 1
    assert [(line["percent"], line["bytes_read"], line["size"]) for line in logged] == [
        (25, 500, 2000), (50, 1000, 2000), (75, 1500, 2000)
    ]  # fmt: skip
    assert logged[0]["cache_key"] == layer(1, 1).cache_key


def test_a_short_pass_says_nothing() -> None:
    lines = Lines(Clock())
    with structlog.testing.capture_logs() as logged:
        for step in range(100):
            lines.on_progress(layer(1, 100), at(step))
    assert logged == []


def test_layers_have_lines_of_their_own_and_an_empty_blob_no_percentage_trouble() -> None:
    clock = Clock()
    lines = Lines(clock)
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            lines.on_progress(layer(1, 0), at(0))
            lines.on_progress(layer(2, 100), at(50))
            clock.now += LINE_INTERVAL_S
    assert [line["percent"] for line in logged] == [0, 50]
