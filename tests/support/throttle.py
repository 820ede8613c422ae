"""A TCP relay on loopback that passes answers on at a pace, so that a download lasts."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE_BYTES = 16 << 10


@dataclass(slots=True)
class Throttle:
    """`bytes_per_s` holds for all its connections together; None: as they come.

    passed  bytes of answers so far
    """

    upstream: tuple[str, int]
    port: int
    bytes_per_s: float | None = None
    passed: int = 0
    _pace: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        relays: list[threading.Thread] = []
        while not self._ended.is_set():
            with suppress(TimeoutError):
                client, _ = listener.accept()
                relays.append(threading.Thread(target=self._relay, args=(client,)))
                relays[-1].start()
        for relay in relays:
            relay.join()

    def end(self) -> None:
        self._ended.set()

    def _relay(self, client: socket.socket) -> None:
        """One connection, until either side closes it."""
        client.settimeout(None)
        with (
            client,
            socket.create_connection(self.upstream) as server,
            selectors.DefaultSelector() as selector,
            suppress(OSError),
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._ended.is_set():
                for ready, _ in selector.select(0.1):
                    assert isinstance(ready.fileobj, socket.socket)
                    piece = ready.fileobj.recv(PIECE_BYTES)
                    if not piece:
                        return
                    if ready.fileobj is server:
                        self._wait_for_turn(len(piece))
                    ready.data.sendall(piece)

    def _wait_for_turn(self, count: int) -> None:
        with self._pace:
            self.passed += count
            if self.bytes_per_s is not None:
                self._ended.wait(count / self.bytes_per_s)


@contextmanager
def throttle(upstream: str) -> Iterator[Throttle]:
    """A relay to upstream, host:port, that has no limit yet."""
    host, _, port = upstream.partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        relay = Throttle((host, int(port)), listener.getsockname()[1])
        serving = threading.Thread(target=relay.serve, args=(listener,))
        serving.start()
        try:
            yield relay
        finally:
            relay.end()
            serving.join()
