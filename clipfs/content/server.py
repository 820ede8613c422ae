"""The content cache's process: one task a connection, until it is told to end.

Not here: what is answered (`clipfs.content.objects`); TLS.
"""

import errno
import signal
from collections.abc import Callable

import h11
import structlog
import trio

from clipfs.content.connection import Connection, Ending
from clipfs.content.objects import Objects
from clipfs.content.store import Store
from clipfs.content.tokens import Tokens

log = structlog.get_logger()

MAX_CONNECTIONS = 1024

GRACE_S = 10
"""Requests in flight have this long to finish when the server is told to end."""

_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.ENOMEM)


async def serve(
    store: Store,
    host: str,
    port: int,
    tokens: Tokens,
    *,
    on_listening: Callable[[str, int], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight within GRACE_S.

    on_listening  gets the address once connections are taken; port 0 is a free one
    """
    objects = Objects(store, tokens)
    listeners = await trio.open_tcp_listeners(port, host=host)
    connections = _Connections(objects)
    async with trio.open_nursery() as requests, trio.open_nursery() as accepting:
        for listener in listeners:
            accepting.start_soon(connections.accept, listener, requests)
        bound = listeners[0].socket.getsockname()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            on_listening(bound[0], bound[1])
            async for _ in signals:
                break
        accepting.cancel_scope.cancel()
        connections.ending.begin()
        requests.cancel_scope.deadline = trio.current_time() + GRACE_S


class _Connections:
    """All connections of one server; what goes wrong in one reaches no other."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._limit = trio.CapacityLimiter(MAX_CONNECTIONS)
        self.ending = Ending()

    async def accept(self, listener: trio.SocketListener, requests: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _TRANSIENT:
                        raise
                    log.warning("a connection was not accepted", error=str(error))
                    await trio.sleep(0.1)
                    continue
                requests.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await self._within_limit(stream)
        except (trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError, ConnectionError):
            pass  # the client's own loss
        except OSError as error:
            log.warning("a request failed", error=str(error))
        except Exception:
            log.exception("a request failed; this is a bug")

    async def _within_limit(self, stream: trio.SocketStream) -> None:
        try:
            self._limit.acquire_nowait()
        except trio.WouldBlock:
            return  # closed: clients take that for a cache that is down
        try:
            await Connection(stream).run(self._objects.respond, self.ending)
        finally:
            self._limit.release()
