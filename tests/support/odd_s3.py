"""A small object store in memory that speaks S3 badly, on loopback: what no real one offers.

It checks no signature; real bytes, ETags and times otherwise.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Oddity = Literal["ignores conditions", "refuses conditions", "ignores ranges", "quotes requests"]


@dataclass(slots=True)
class OddS3:
    endpoint: str
    oddity: Oddity
    objects: dict[str, bytes] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)


@contextmanager
def run_odd_s3(oddity: Oddity, *, port: int = 0) -> Iterator[OddS3]:
    """A store that does what oddity says; it ends with the block. port: 0 is any."""
    store = OddS3("", oddity)

    class Handler(_Handler):
        odd = store

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        store.endpoint = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield store
        finally:
            server.shutdown()
            serving.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    odd: OddS3

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may go away at any time
            super().handle()

    def do_GET(self) -> None:
        if self.odd.oddity == "quotes requests":
            words = f"<Error><Code>SignatureDoesNotMatch</Code><Of>{self.headers}</Of></Error>"
            self._answer(403, words.encode())
        elif (data := self.odd.objects.get(self.path)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif (asked := self.headers["Range"]) and self.odd.oddity != "ignores ranges":
            start, stop = (int(one) for one in asked.removeprefix("bytes=").split("-"))
            where = f"bytes {start}-{stop}/{len(data)}"
            self._answer(206, data[start : stop + 1], ("Content-Range", where))
        else:
            self._answer(200, data)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        conditional = self.headers["If-None-Match"] or self.headers["If-Match"]
        if conditional and self.odd.oddity == "refuses conditions":
            self._answer(501, b"<Error><Code>NotImplemented</Code></Error>")
            return
        self.odd.objects[self.path] = data
        self.odd.writes.append(self.path)
        self._answer(200, b"", of=data)

    def do_DELETE(self) -> None:
        self.odd.objects.pop(self.path, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, *more: tuple[str, str], of: bytes = b"") -> None:
        self.send_response(status)
        fields = {
            "Content-Length": str(len(body)),
            "ETag": f'"{hashlib.sha256(of or body).hexdigest()}"',
            "Last-Modified": formatdate(usegmt=True),
        }
        for name, value in (*fields.items(), *more):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr."""
