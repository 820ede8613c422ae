"""Full passes in real workers, over blobs from a server that can stop in the middle of one."""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from blake3 import blake3

from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource, Layer
from clipfs.layer.index import CHUNK_BYTES, LayerIndex, PackedEntries, make_index
from clipfs.layer.job import PassProgress
from clipfs.layer.partial import Partial
from clipfs.layer.passes import PassRequest, PassResult, run_pass


@dataclass(slots=True)
class BlobServer:
    """`reached` is set when a blob stopped at `hold_at`; set `go` to let it go on."""

    url: str
    headers: list[dict[str, str]] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(
    blob: bytes,
    *,
    status: int = 200,
    stated_bytes: int | None = None,
    hold_at: int | None = None,
) -> Iterator[BlobServer]:
    """Serve blob at a URL of its own, stating another length if so told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.headers.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(stated_bytes or len(blob)))
            self.end_headers()
            try:
                self.wfile.write(blob[:hold_at])
                if hold_at is not None:
                    server.reached.set()
                    server.go.wait()
                    self.wfile.write(blob[hold_at:])
            except ConnectionError:
                pass  # the worker has ended

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = BlobServer(f"http://127.0.0.1:{http.server_port}/blob")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.go.set()
            http.shutdown()
            thread.join()


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def layer_of(blob: bytes, payload: bytes, *, media_type: str = "any") -> Layer:
    return Layer(
        digest=sha256(blob), size=len(blob), media_type=media_type, diff_id=sha256(payload)
    )


def chunk_digests(payload: bytes) -> bytes:
    chunks = (payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES))
    return b"".join(blake3(chunk).digest() for chunk in chunks)


def index_of(payload: bytes) -> LayerIndex:
    """What a first pass over payload would find, but for its entries."""
    return make_index(
        payload_bytes=len(payload),
        diff_id=sha256(payload),
        chunk_digests=chunk_digests(payload),
        entries=PackedEntries(),
    )


def ignore(_: PassProgress) -> None:
    pass


async def first_pass(
    layer: Layer,
    url: str,
    path: Path,
    *,
    on_progress: Callable[[PassProgress], None] = ignore,
    headers: dict[str, str] | None = None,
) -> PassResult:
    """A first pass that writes the payload to path."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        source = BlobSource(url=url, headers=headers or {})
        request = PassRequest(layer=layer, source=source, payload_fd=fd)
        return await run_pass(request, on_progress=on_progress)
    finally:
        os.close(fd)


async def fill(
    layer: Layer,
    url: str,
    partial: Partial,
    index: LayerIndex,
    *,
    on_progress: Callable[[PassProgress], None] = ignore,
) -> PassResult:
    """A fill of partial."""
    request = PassRequest(
        layer=layer,
        source=BlobSource(url=url, headers={}),
        payload_fd=partial.payload_fd,
        map_fd=partial.map_fd,
        index=index,
    )
    return await run_pass(request, on_progress=on_progress)


def workers() -> list[int]:
    """Process ids of the passes that this process runs right now."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = status.with_name("cmdline").read_bytes()
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = re.search(r"^PPid:\t(\d+)$", text, re.MULTILINE)
        if b"clipfs.layer.worker" in command and parent and int(parent[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found
