"""A small HTTP server: /metrics, /healthz and /readyz, by GET alone.

Whoever reaches the port may ask. A client that is slow, or that says nothing, holds a thread for
a while and nobody else up: of too many connections the oldest is cut off.

Not here: what the pages say.
"""

import socket
import socketserver
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from clipfs import errors
from clipfs.log import log
from csi.metrics.options import Address

SILENCE_S = 10.0
"""A client may say nothing, or take nothing, for so long."""

MAX_CONNECTIONS = 32
"""A node has a few scrapers and one kubelet."""

_POLL_S = 0.1
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    body: bytes


Pages = Mapping[str, Callable[[str], Page]]
"""By path: what makes the page, given the request's Accept header."""


@contextmanager
def serving(address: Address, pages: Pages) -> Iterator[Address]:
    """Answer on threads of its own while the block runs; gives where, with the port's number.

    Raises  InvalidInput if nobody can listen there
    """
    try:
        server = _Server(address, pages)
    except OSError as error:
        raise errors.InvalidInput(
            f"--metrics {address}: {error.strerror or error}; name another address or port, or end "
            "what listens there"
        ) from error
    with server:
        thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        thread.start()
        try:
            host, port = server.socket.getsockname()[:2]
            yield Address(host=host, port=port)
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: Address, pages: Pages) -> None:
        self.pages = pages
        self._guard = threading.Lock()
        self._open: deque[socket.socket] = deque()
        self.address_family, place = _resolved(address)
        super().__init__(place, _Request)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:  # [::] is IPv4, too
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.append(request)
            if len(self._open) > MAX_CONNECTIONS:
                with suppress(OSError):  # its client was quicker; its thread ends by itself
                    self._open.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard, suppress(ValueError):  # it was cut off
            self._open.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("a connection for metrics broke off", error=str(error))
        else:
            log.exception("a request for metrics failed, this is a bug")


class _Request(BaseHTTPRequestHandler):
    """One request, then the connection ends."""

    server: _Server
    timeout = SILENCE_S
    server_version = "clip-csi"
    sys_version = ""

    def do_GET(self) -> None:
        make = self.server.pages.get(urlsplit(self.path).path)
        if make is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            page = make(self.headers.get("Accept", ""))
        except Exception as error:
            log.exception("a page cannot be made", path=self.path[:100])
            said = f"{error}\n".encode()
            page = Page(status=HTTPStatus.INTERNAL_SERVER_ERROR, body=said)
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("metrics were asked for", said=format % args)


def _resolved(address: Address) -> tuple[socket.AddressFamily, Any]:
    if not address.host:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return family, ("::" if both else "", address.port)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    family, _, _, _, place = found[0]
    return family, place
