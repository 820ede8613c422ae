"""One worker process: takes connections from the shared listeners, one task a connection.

Not here: processes (`clipfs.content.server`); what is answered (`clipfs.content.objects`).
"""

import errno
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial

import h11
import trio

from clipfs import errors
from clipfs.content import counters as count
from clipfs.content.connection import Connection, Request
from clipfs.content.counters import Counters
from clipfs.content.deadlines import Watch
from clipfs.content.hot import Hot
from clipfs.content.keys import is_page
from clipfs.content.metrics import CONTENT_TYPE, exposition
from clipfs.content.misses import Misses
from clipfs.content.objects import OBJECTS, Objects
from clipfs.content.store import Store
from clipfs.content.tls import TlsFiles
from clipfs.content.tokens import Tokens
from clipfs.content.wire import PlainWire, TlsWire, Wire
from clipfs.log import log

MAX_CONNECTIONS = 1024
"""In one worker; a further one takes the place of one without a request, or is closed, as by a
server that is down."""

GRACE_S = 10
"""Requests in flight have this long to finish when the server is told to end."""

_TRANSIENT = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.ENOMEM)

_MOST_TURNS = 5
"""How often, at a millisecond each, a worker leaves a connection to a less busy one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all workers have in common.

    store        called in each worker, after the fork
    after_death  called in their parent when one has died
    """

    listeners: Sequence[socket.socket]
    store: Callable[[], Store]
    tokens: Tokens
    misses: Misses
    counters: Counters
    tls: TlsFiles | None
    after_death: Callable[[], None]


class Worker:
    """All connections of one process; an error in one ends only that."""

    def __init__(self, shared: Shared, number: int) -> None:
        """number  of its counters"""
        self._shared = shared
        self.store = store = shared.store()
        on_change = partial(shared.counters.changed, number)
        self._objects = Objects(store, shared.tokens, shared.misses, on_change)
        self._counts = shared.counters.workers[number]
        self._watch = Watch()
        self._hot = Hot(store, shared.tokens, shared.counters.changes)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until SIGTERM, then finish what is in flight within GRACE_S.

        on_ready  called once signals are obeyed
        """
        async with trio.open_nursery() as background:
            background.start_soon(self._watch.run)
            background.start_soon(self._hot.run)
            await self._serve_until_sigterm(on_ready)
            background.cancel_scope.cancel()

    async def _serve_until_sigterm(self, on_ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as requests:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
                on_ready()
                async with trio.open_nursery() as accepting:
                    for listener in self._shared.listeners:
                        accepting.start_soon(self._accept, listener, requests)
                    async for number in signals:
                        if number != signal.SIGHUP:
                            break
                        self._read_tls_again()
                    accepting.cancel_scope.cancel()
            for listener in self._shared.listeners:
                listener.close()
            self._watch.drain()
            requests.cancel_scope.deadline = trio.current_time() + GRACE_S

    def _read_tls_again(self) -> None:
        if self._shared.tls is not None:
            with suppress(errors.InvalidInput):  # its parent has read it, and says what is wrong
                self._shared.tls.read_again()

    async def _accept(self, listener: socket.socket, requests: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            await self._give_way()
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue  # another worker took it
            except OSError as error:
                if error.errno not in _TRANSIENT:
                    raise
                log.warning("a connection was not accepted", error=str(error))
                await trio.sleep(0.1)
                continue
            requests.start_soon(self._serve, sock)

    async def _give_way(self) -> None:
        """Leave the next connection for a moment to a worker that has fewer."""
        workers = self._shared.counters.workers
        for _ in range(_MOST_TURNS):
            if self._counts[count.OPEN] <= min(worker[count.OPEN] for worker in workers):
                break
            await trio.sleep(0.001)

    async def _serve(self, sock: socket.socket) -> None:
        counts = self._counts
        with sock:
            if counts[count.OPEN] >= MAX_CONNECTIONS and not self._watch.make_room():
                counts[count.REFUSED] += 1
                return
            counts[count.ACCEPTED] += 1
            counts[count.OPEN] += 1
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._answer_all(_wire(sock, self._shared.tls))
            except (trio.BrokenResourceError, h11.RemoteProtocolError, ConnectionError):
                pass  # the client's own loss
            except OSError as error:
                log.warning("a request failed", error=str(error))
            except Exception:
                log.exception("a request failed; this is a bug")
            finally:
                counts[count.OPEN] -= 1

    async def _answer_all(self, wire: Wire) -> None:
        with self._watch.connection() as deadline:
            connection = Connection(wire, deadline, self._counts)
            await connection.run(self._respond, self._watch)
            await wire.close()

    async def _respond(self, http: Connection, request: Request) -> None:
        if http.is_plain and (part := self._hot.part_of(request)) is not None:
            self._counts[count.FOUND] += 1
            try:
                await http.answer_plainly(206, part.head, part.opened.fd, part.bytes)
            finally:
                part.opened.release()
            return self._count_page_bytes(http, request)
        if request.target == "/metrics" and request.method in ("GET", "HEAD"):
            text = exposition(self._shared.counters, self.store.usage())
            return await http.answer(200, text, content_type=CONTENT_TYPE)
        await self._objects.respond(http, request)
        if request.method in ("GET", "HEAD") and request.target.startswith(OBJECTS):
            if http.status == 404:
                self._counts[count.MISSED] += 1
            elif http.status < 400:
                self._counts[count.FOUND] += 1
                self._count_page_bytes(http, request)

    def _count_page_bytes(self, http: Connection, request: Request) -> None:
        if is_page(request.target.removeprefix(OBJECTS)):
            self._counts[count.SENT_PAGE_BYTES] += http.file_bytes


def _wire(sock: socket.socket, tls: TlsFiles | None) -> Wire:
    return TlsWire(sock, tls.context) if tls else PlainWire(sock)


def serve(shared: Shared, number: int, on_ready: Callable[[], None]) -> None:
    """Until told to end by a signal."""
    one = Worker(shared, number)
    with closing(one.store):
        trio.run(one.run, on_ready)
