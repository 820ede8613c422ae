"""Progress of the layers' passes: bars on a terminal, elsewhere a log line every few seconds.

rich's bars are loaded only where there is a terminal: a mount by the driver must not pay for
them.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipfs.image.model import Layer
from clipfs.layer.job import PassProgress
from clipfs.log import log

OnProgress = Callable[[Layer, PassProgress], None]

LINE_INTERVAL_S = 5
"""Between two lines of one layer; a pass that is shorter has none."""


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
