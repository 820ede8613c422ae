"""A TCP relay, mostly on loopback; whoever made it sees every piece before it goes on."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PIECE_BYTES = 16 << 10

OnPiece = Callable[[bytes, bool], None]
"""Gets a piece, and whether it is an answer's, before it goes on; may take its time."""


@contextmanager
def relay(
    upstream: str, on_connection: Callable[[], OnPiece], *, listen: str = "127.0.0.1:0"
) -> Iterator[str]:
    """The address, host:port, of a relay to upstream, another; it ends with the block."""
    host, _, port = listen.partition(":")
    ended = threading.Event()
    with socket.create_server((host, int(port))) as listener:
        listener.settimeout(0.1)
        args = (listener, upstream, on_connection, ended)
        accepting = threading.Thread(target=_accept, args=args)
        accepting.start()
        try:
            yield f"{host}:{listener.getsockname()[1]}"
        finally:
            ended.set()
            accepting.join()


def _accept(
    listener: socket.socket,
    upstream: str,
    on_connection: Callable[[], OnPiece],
    ended: threading.Event,
) -> None:
    relays: list[threading.Thread] = []
    while not ended.is_set():
        with suppress(TimeoutError):
            client, _ = listener.accept()
            args = (client, upstream, on_connection(), ended)
            relays.append(threading.Thread(target=_relay, args=args))
            relays[-1].start()
    for one in relays:
        one.join()


def _relay(client: socket.socket, upstream: str, on_piece: OnPiece, ended: threading.Event) -> None:
    """One connection, until either side closes it."""
    client.settimeout(None)
    host, _, port = upstream.partition(":")
    with (
        client,
        suppress(OSError),
        socket.create_connection((host, int(port))) as server,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while not ended.is_set():
            for ready, _ in selector.select(0.1):
                assert isinstance(ready.fileobj, socket.socket)
                piece = ready.fileobj.recv(PIECE_BYTES)
                if not piece:
                    return
                on_piece(piece, ready.fileobj is server)
                ready.data.sendall(piece)
