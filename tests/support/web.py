"""A tiny HTTP server that answers what the test says, wrong answers included."""

import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.registry import Certificate

PACED_BYTES = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request; `path` with its query, names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    raw          just these bytes and no more; what is said of the body below is true of them
    bytes_per_s  its body comes no faster
    stops_at     here its body ends to come, until `until` is set; then the connection ends
    drip_s       from there on a byte comes so often
    on_sent      called when it has been sent, or nobody wants it any more
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    bytes_per_s: float | None = None
    stops_at: int | None = None
    until: threading.Event = field(default_factory=threading.Event)
    drip_s: float | None = None
    on_sent: Callable[[], None] = lambda: None


Responder = Callable[[Asked], Reply]


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running server.

    address   host:port
    asked     every request so far
    at_once   how many at most were answered at the same time, by their path without query
    peers     addresses that connections came from: one for each
    """

    address: str
    asked: list[Asked] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)
    peers: set[object] = field(default_factory=set)

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]


@contextmanager
def run_web(
    respond: Responder,
    *,
    tls: Certificate | None = None,
    keep_alive: bool = False,
    listen: str = "127.0.0.1:0",
) -> Iterator[WebServer]:
    """Serve until the block ends. With tls it speaks HTTPS.

    keep_alive  a connection gets an answer to each of its requests, not one only
    """
    busy: Counter[str] = Counter()
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            one = Asked(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            path = one.path.partition("?")[0]
            with counting:
                web.asked.append(one)
                web.peers.add(self.client_address)
                busy[path] += 1
                web.at_once[path] = max(web.at_once[path], busy[path])
            try:
                reply = respond(one)
                self._send(reply)
                reply.on_sent()
            finally:
                with counting:
                    busy[path] -= 1

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def _send(self, reply: Reply) -> None:
            try:
                if reply.raw is not None:
                    self.close_connection = True
                    for piece in _paced(reply, reply.raw):
                        self.wfile.write(piece)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                for piece in _paced(reply, reply.body):
                    self.wfile.write(piece)
            except ConnectionError:
                self.close_connection = True  # the client has heard enough

        def log_message(self, format: str, *args: object) -> None:
            pass

    host, _, port = listen.partition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        web = WebServer(f"{host}:{server.server_address[1]}")
        server.daemon_threads = keep_alive  # they wait for a next request
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()


def _paced(reply: Reply, data: bytes) -> Iterator[bytes]:
    if reply.stops_at is not None:
        yield data[: reply.stops_at]
        for at in range(reply.stops_at, len(data)):
            if reply.until.wait(reply.drip_s):
                raise ConnectionAbortedError
            yield data[at : at + 1]
        return
    if reply.bytes_per_s is None:
        yield data
        return
    for at in range(0, len(data), PACED_BYTES):
        time.sleep(PACED_BYTES / reply.bytes_per_s)
        yield data[at : at + PACED_BYTES]


def part_of(blob: bytes, asked: Asked, bytes_per_s: float | None = None) -> Reply:
    """What asked wants of blob: a range, or the whole."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if match is None:
        return Reply(body=blob, bytes_per_s=bytes_per_s)
    first, last = int(match[1]), int(match[2] or len(blob) - 1)
    stated = {"Content-Range": f"bytes {first}-{last}/{len(blob)}"}
    return Reply(206, stated, blob[first : last + 1], bytes_per_s=bytes_per_s)
