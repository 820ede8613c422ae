"""Progress of the layers' passes: bars on a terminal, elsewhere a log line every few seconds;
and lines of JSON through a pipe, for the driver.

rich's bars are loaded only where there is a terminal: a mount by the driver must not pay for
them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import msgspec

from clipfs.image.model import Layer
from clipfs.layer.job import PassProgress
from clipfs.log import log

OnProgress = Callable[[Layer, PassProgress], None]

LINE_INTERVAL_S = 5
"""Between two lines of one layer; a pass that is shorter has none."""

TOLD_EVERY_S = 0.25
"""Between two lines of one layer in the pipe, but for its last."""

Phase = Literal["index", "prove", "merge", "bring", "mount"]
"""What a mount does, in this order: `prove` that the registry has a layer which is cached already,
`bring` layers whole to the disk, for the kernel's front."""


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line in the pipe: of a layer where there is a digest, else of the phase that begins.

    done_bytes     of total_bytes: of the blob, or of the payload where that is brought
    bytes_by_tier  that the mount has read so far; told with its last phase
    """

    phase: Phase
    digest: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    is_anothers: bool = False
    bytes_by_tier: dict[str, int] = {}


class Teller:
    """Tells whoever has started this process, through a pipe; None: nobody wants to know.

    Never waits and never fails: a line that does not fit is dropped, another one follows.
    """

    def __init__(self, fd: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._phase: Phase = "index"
        self._last: dict[str, float] = {}
        if fd is not None:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)

    def begin(self, phase: Phase, bytes_by_tier: dict[str, int] | None = None) -> None:
        self._phase = phase
        self._say(Told(phase=phase, bytes_by_tier=bytes_by_tier or {}))

    def on_progress(self, layer: Layer, progress: PassProgress) -> None:
        """How far a layer's pass is: not of interest where its payload is brought."""
        if self._phase != "bring":
            phase: Phase = "prove" if progress.is_proof else self._phase
            done_bytes, is_anothers = progress.downloaded_bytes, progress.is_anothers
            self._tell(phase, layer, done_bytes, layer.size, is_anothers=is_anothers)

    def on_brought(self, layer: Layer, done_bytes: int, total_bytes: int) -> None:
        """How much of a layer's payload is on this disk, from wherever it came."""
        self._tell(self._phase, layer, done_bytes, total_bytes, is_anothers=False)

    def _tell(
        self, phase: Phase, layer: Layer, done_bytes: int, total_bytes: int, *, is_anothers: bool
    ) -> None:
        now, is_last = self._clock(), done_bytes >= total_bytes
        if not is_last and now - self._last.get(layer.digest, -TOLD_EVERY_S) < TOLD_EVERY_S:
            return
        self._last[layer.digest] = now
        self._say(
            Told(
                phase=phase,
                digest=layer.digest,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                is_anothers=is_anothers,
            )
        )

    def _say(self, told: Told) -> None:
        if self._fd is not None:
            with suppress(OSError):
                os.write(self._fd, msgspec.json.encode(told) + b"\n")


def both(one: OnProgress, other: OnProgress) -> OnProgress:
    def on_progress(layer: Layer, progress: PassProgress) -> None:
        one(layer, progress)
        other(layer, progress)

    return on_progress


@contextmanager
def shown() -> Iterator[OnProgress]:
    """A function to tell progress to, while the block runs."""
    if not sys.stderr.isatty():
        yield Lines().on_progress
        return
    if sys.modules.get("rich") is None:
        sys.modules.pop("rich", None)  # see `clipfs.cli`
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def on_progress(layer: Layer, progress: PassProgress) -> None:
            if layer.digest not in tasks:
                words = f"layer {layer.digest[7:19]}"
                tasks[layer.digest] = bars.add_task(words, total=layer.size)
            bars.update(tasks[layer.digest], completed=progress.downloaded_bytes)  # type: ignore[arg-type] # a TaskID is an int

        yield on_progress


class Lines:
    """A line a layer, at most every LINE_INTERVAL_S; clock is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def on_progress(self, layer: Layer, progress: PassProgress) -> None:
        now = self._clock()
        if now - self._last.setdefault(layer.digest, now) < LINE_INTERVAL_S:
            return
        self._last[layer.digest] = now
        log.info(
            "layer is being downloaded",
            cache_key=layer.cache_key,
            bytes_read=progress.downloaded_bytes,
            size=layer.size,
            percent=100 * progress.downloaded_bytes // max(layer.size, 1),
        )
