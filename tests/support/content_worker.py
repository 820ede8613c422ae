"""A second process on a content cache's folder, as one of the server's worker processes is.

    python -m tests.support.content_worker DIR [MAX_BYTES]

Prints its port; ends by SIGTERM.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clipfs.content.counters import Counters
from clipfs.content.misses import Misses
from clipfs.content.server import open_listeners, serve
from clipfs.content.store import Store
from clipfs.content.tokens import Tokens
from clipfs.content.worker import Shared
from tests.support.content import READ_TOKEN, TOKEN, ContentServer


def main(directory: Path, max_bytes: int | None) -> None:
    listeners = open_listeners("127.0.0.1", 0)
    shared = Shared(
        listeners=listeners,
        store=lambda: Store.attach(directory, max_bytes=max_bytes),
        tokens=Tokens(write=TOKEN, read=READ_TOKEN),
        misses=Misses(),
        counters=Counters(1),
        tls=None,
        after_death=lambda: None,
    )
    port = listeners[0].getsockname()[1]
    serve(shared, lambda: print(json.dumps(port), flush=True))


@contextmanager
def run_worker(owner: ContentServer, max_bytes: int | None = None) -> Iterator[ContentServer]:
    """Another process on the folder of owner, on a port of its own."""
    words = [str(owner.directory), *([] if max_bytes is None else [str(max_bytes)])]
    command = [sys.executable, "-m", "tests.support.content_worker", *words]
    with (
        owner.log.open("ab") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            assert process.stdout is not None
            yield replace(owner, process=process, port=json.loads(process.stdout.readline()))
        finally:
            process.kill()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
