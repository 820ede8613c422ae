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

import trio

from clipfs.content.server import serve
from clipfs.content.store import Store
from clipfs.content.tokens import Tokens
from tests.support.content import READ_TOKEN, TOKEN, ContentServer


def main(directory: Path, max_bytes: int | None) -> None:
    store = Store.attach(directory, max_bytes=max_bytes)

    def on_listening(_: str, port: int) -> None:
        print(json.dumps(port), flush=True)

    async def run() -> None:
        tokens = Tokens(write=TOKEN, read=READ_TOKEN)
        await serve(store, "127.0.0.1", 0, tokens, on_listening=on_listening)

    trio.run(run)


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
