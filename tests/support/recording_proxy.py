"""A TCP proxy before a content cache that writes down what passes: method, key, status."""

import re
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_REQUEST = re.compile(rb"(GET|HEAD|PUT) /v1/objects/(\S+) HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")


@dataclass(slots=True)
class Recorder:
    """`exchanges` in the order of their answers."""

    url: str
    exchanges: list[tuple[str, str, int]] = field(default_factory=list)

    def keys(self, method: str) -> set[str]:
        return {key for asked, key, _ in self.exchanges if asked == method}


@contextmanager
def recording_proxy(upstream_port: int) -> Iterator[Recorder]:
    """The recorder of everything that goes through its url to the port, until the block ends."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        recorder = Recorder(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.settimeout(0.1)
        accepting = threading.Thread(
            target=_accept, args=(listener, upstream_port, recorder, ended)
        )
        accepting.start()
        try:
            yield recorder
        finally:
            ended.set()
            accepting.join()


def _accept(listener: socket.socket, port: int, recorder: Recorder, ended: threading.Event) -> None:
    relays: list[threading.Thread] = []
    while not ended.is_set():
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        relay = threading.Thread(target=_relay, args=(client, port, recorder, ended))
        relay.start()
        relays.append(relay)
    for relay in relays:
        relay.join()


def _relay(client: socket.socket, port: int, recorder: Recorder, ended: threading.Event) -> None:
    """One connection, until either side closes it. A client asks when it has its answer."""
    client.settimeout(None)
    asked = (b"", b"")
    with (
        client,
        socket.create_connection(("127.0.0.1", port)) as server,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while not ended.is_set():
            for ready, _ in selector.select(0.1):
                try:
                    piece = ready.fileobj.recv(1 << 16)  # type: ignore[union-attr] # a socket
                    ready.data.sendall(piece)
                except OSError:
                    return
                if not piece:
                    return
                if ready.fileobj is client and (match := _REQUEST.match(piece)):
                    asked = (match[1], match[2])
                status = _STATUS.match(piece) if ready.fileobj is server else None
                if status and status[1] != b"100":
                    recorder.exchanges.append(
                        (asked[0].decode(), asked[1].decode(), int(status[1]))
                    )
