"""One HTTP/1.1 connection, server side: requests come out, responses go in.

Framing is h11's. The bodies of objects go out by sendfile and h11 only counts them. A client
that is slow, silent or wrong loses its own connection and nothing else.

Not here: what a request means (`clipfs.content.objects`).
Source: RFC 9112.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import h11
import trio

MAX_HEAD_BYTES = 16 << 10
_PIECE_BYTES = 256 << 10

IDLE_S = 75
"""A connection that says nothing for this long is closed; clients keep theirs for less."""

TRANSFER_S = 60
"""One read of a body's piece, or the sending of one body, may take this long."""

LINGER_S = 2
"""How long the body of a refused request is read and dropped, so that a client that is still
sending it gets to see the answer."""

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request without its body. Of a header that comes twice, the last one counts."""

    method: str
    target: str
    headers: dict[bytes, bytes]


class Ending:
    """Whether the server is to end: connections between two requests are closed at once."""

    def __init__(self) -> None:
        self.begun = False
        self._idle: set[trio.CancelScope] = set()

    def begin(self) -> None:
        self.begun = True
        for scope in self._idle:
            scope.cancel()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Around the wait for a request: given up after IDLE_S, or when the server ends."""
        with trio.move_on_after(IDLE_S) as scope:
            self._idle.add(scope)
            try:
                yield
            finally:
                self._idle.discard(scope)


class Connection:
    """The requests of one connection, one after another, each answered exactly once."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._without_body = False  # the answer to a HEAD
        self._holds_back = False  # the client has been answered without being told to go on
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(
        self, respond: Callable[["Connection", Request], Awaitable[None]], ending: Ending
    ) -> None:
        """Let respond answer requests until the client goes or the server ends."""
        while not ending.begun:
            request = None
            with ending.idle():
                request = await self._next_request()
            if request is None:
                return
            await respond(self, request)
            if not await self._is_reusable():
                return
            self._http.start_next_cycle()

    async def receive(self, write: Callable[[bytes], None]) -> bool:
        """Hand the request's body on; False if it broke off."""
        while True:
            with trio.fail_after(TRANSFER_S):
                event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return True
            if not isinstance(event, h11.Data):
                return False
            write(event.data)

    async def answer(
        self, status: int, text: str, headers: Headers = (), *, content_type: str = "text/plain"
    ) -> None:
        """A small response; it closes the connection if the request's body was not read."""
        body = text.encode()
        self._holds_back = self._http.they_are_waiting_for_100_continue
        lines = [*headers]
        if status != 204:  # RFC 9110: it has no body, nor a length
            lines += [("Content-Length", str(len(body))), ("Content-Type", content_type)]
        if self._http.their_state is not h11.DONE:
            lines.append(("Connection", "close"))
        data = self._http.send(h11.Response(status_code=status, headers=lines)) or b""
        if body and not self._without_body:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        with trio.fail_after(TRANSFER_S):
            await self._stream.send_all(data)

    async def answer_file(self, status: int, headers: Headers, fd: int, part: range) -> None:
        """A response whose body is part of an open file; headers say its length."""
        head = self._http.send(h11.Response(status_code=status, headers=list(headers))) or b""
        body = part if not self._without_body else range(0)
        with trio.fail_after(TRANSFER_S):
            await self._send_head(head, more=bool(body))
            await self._send_file(fd, body)
        if body:
            self._http.send_with_data_passthrough(h11.Data(data=_Sized(len(body))))  # type: ignore[arg-type] # only its length is looked at
        self._http.send(h11.EndOfMessage())

    async def _next_request(self) -> Request | None:
        try:
            event = await self._next()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self.answer(error.error_status_hint, f"{error}\n")
            return None
        if not isinstance(event, h11.Request):
            return None
        headers = {bytes(name): bytes(value) for name, value in event.headers}
        if not headers.keys() & {b"content-length", b"transfer-encoding"}:
            await self._next()  # its end, which is here already
        self._without_body = event.method == b"HEAD"
        return Request(
            method=event.method.decode("ascii", "replace"),
            target=event.target.decode("ascii", "replace"),
            headers=headers,
        )

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send_all(self._http.send(go_on) or b"")
            self._http.receive_data(await self._stream.receive_some(_PIECE_BYTES))

    async def _is_reusable(self) -> bool:
        """Drop what was not read of the request; whether another one may follow it."""
        with trio.move_on_after(LINGER_S):
            while self._http.their_state is h11.SEND_BODY and not self._holds_back:
                await self._next()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _send_head(self, head: bytes, *, more: bool) -> None:
        """With more, the kernel puts the body's beginning into the head's packet."""
        sent = await self._stream.socket.send(head, socket.MSG_MORE if more else 0)
        if sent < len(head):
            await self._stream.send_all(head[sent:])

    async def _send_file(self, fd: int, part: range) -> None:
        at, sock = part.start, self._stream.socket
        while at < part.stop:
            try:
                sent = os.sendfile(sock.fileno(), fd, at, part.stop - at)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
                continue
            if sent == 0:
                raise ConnectionError("an object is shorter than it was")
            at += sent
        await trio.lowlevel.checkpoint()


class _Sized:
    """Stands for body bytes that sendfile has sent: h11 counts them by len."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
