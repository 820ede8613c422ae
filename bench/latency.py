"""A relay on loopback behind which a server is further away: each request comes later by so much.

Answers pass through a pipe inside the kernel, so that the relay is not what is measured; a
request is held back alone, as if it had been on its way for the time of a round trip.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_REQUEST_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20


@contextmanager
def further_away(upstream: str, latency_s: float) -> Iterator[str]:
    """The address of a relay to upstream, both host:port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        args = (listener, upstream, latency_s)
        threading.Thread(target=_accept, args=args, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, upstream: str, latency_s: float) -> None:
    host, _, port = upstream.partition(":")
    with suppress(OSError):  # the listener is closed
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((host, int(port)))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            pair = (client, server)
            threading.Thread(target=_requests, args=(*pair, latency_s), daemon=True).start()
            threading.Thread(target=_answers, args=pair, daemon=True).start()


def _requests(client: socket.socket, server: socket.socket, latency_s: float) -> None:
    with suppress(OSError):
        while data := client.recv(_REQUEST_BYTES):
            time.sleep(latency_s)
            server.sendall(data)
    _end(client, server)


def _answers(client: socket.socket, server: socket.socket) -> None:
    reading, writing = os.pipe()
    try:
        with suppress(OSError):
            while count := os.splice(server.fileno(), writing, _PIPE_BYTES):
                while count:
                    count -= os.splice(reading, client.fileno(), count)
    finally:
        os.close(reading)
        os.close(writing)
    _end(client, server)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
