"""Progress of the layers' passes: bars on a terminal, plain lines elsewhere.

rich is imported only where there is a terminal: a mount by the driver must not pay for it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipfs.image.model import Layer
from clipfs.layer.passes import PassProgress

OnProgress = Callable[[Layer, PassProgress], None]


@contextmanager
def shown(*, quiet: bool) -> Iterator[OnProgress]:
    """A function to tell progress to; quiet shows none (the log tells the outcome anyway)."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
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
