"""A tiny HTTP server on loopback that answers what the test says, wrong answers included."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.registry import Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request; `path` with its query, names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; with raw, just these bytes and no more."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None


Responder = Callable[[Asked], Reply]


@dataclass(frozen=True, slots=True)
class WebServer:
    """A running server: `address` is host:port, `asked` every request so far."""

    address: str
    asked: list[Asked]

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]


@contextmanager
def run_web(respond: Responder, *, tls: Certificate | None = None) -> Iterator[WebServer]:
    """Serve until the block ends; each connection gets one answer. With tls it speaks HTTPS."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            one = Asked(
                method=self.command,
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            asked.append(one)
            self._send(respond(one))

        do_GET = do_POST = answer

        def _send(self, reply: Reply) -> None:
            try:
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
            except ConnectionError:
                pass  # the client has heard enough

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield WebServer(f"127.0.0.1:{server.server_address[1]}", asked)
        finally:
            server.shutdown()
            thread.join()
