"""One HTTP/1.1 connection, server side: requests come out, responses go in.

Plain requests are read by `clipfs.content.head` and answered by hand. All others are read and
answered by h11, each with a state machine of its own; of an object's body h11 only counts the
bytes. A client that is slow, silent or wrong loses its own connection and nothing else.

Not here: what a request means (`clipfs.content.objects`); how bytes move (`clipfs.content.wire`).
Source: RFC 9112.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11
import trio

from clipfs.content import counters as count
from clipfs.content.counters import Counts
from clipfs.content.date import http_date
from clipfs.content.deadlines import Deadline, Watch
from clipfs.content.head import MAX_HEAD_BYTES, MAX_HEADERS, parse_head
from clipfs.content.wire import PIECE_BYTES, Wire

LINGER_S = 2
"""How long the body of a refused request is read and dropped, so that a client that is still
sending it gets to see the answer."""

_QUOTED = ": bytearray("
"""Before what h11 quotes of a request: it may hold the token, and clients log words of answers."""

Headers = Sequence[tuple[str, str]]
_STATUS_LINES = {one.value: f"HTTP/1.1 {one.value} {one.phrase}" for one in HTTPStatus}


@dataclass(slots=True)
class Request:
    """A request without its body. Of a header that comes twice, the last one counts."""

    method: str
    target: str
    headers: dict[bytes, bytes]


class HeadTooLarge(h11.RemoteProtocolError):
    """More header bytes or lines than this server takes."""

    def __init__(self) -> None:
        super().__init__("the header is too large", error_status_hint=431)


class Connection:
    """The requests of one connection, one after another, each answered exactly once."""

    def __init__(self, wire: Wire, deadline: Deadline, counts: Counts) -> None:
        self._wire = wire
        self._deadline = deadline
        self._counts = counts
        self._received = b""  # what came after the request that is being answered
        self._http: h11.Connection | None = None  # of a request that is not plain
        self._without_body = False  # the answer to a HEAD
        self._holds_back = False  # the client waits for 100 Continue, and has been answered
        self._method = ""
        self.status = 0
        self.file_bytes = 0
        """Both of the last answer: file_bytes are those that it had of an object."""

    async def run(
        self, respond: Callable[["Connection", Request], Awaitable[None]], watch: Watch
    ) -> None:
        """Let respond answer requests until the client goes or the server ends."""
        while not watch.draining:
            request = await self._next_request()
            if request is None:
                return
            await respond(self, request)
            if self._http is not None and not await self._is_reusable():
                return
            self._deadline.for_request()

    async def receive(self, write: Callable[[bytes], None]) -> None:
        """Hand the body of a request that is not plain on; RemoteProtocolError if it breaks off."""
        assert self._http is not None
        while isinstance(event := await self._next(self._http), h11.Data):
            write(event.data)
        self._deadline.suspend()

    async def answer(
        self, status: int, text: str, headers: Headers = (), *, content_type: str = "text/plain"
    ) -> None:
        """Send a small response; the connection closes if the request's body was not read."""
        body = text.encode()
        lines = [*headers]
        if status != HTTPStatus.NO_CONTENT:
            lines += [("Content-Length", str(len(body))), ("Content-Type", content_type)]
        if (http := self._http) is not None:
            self._holds_back = http.they_are_waiting_for_100_continue
            if http.their_state is not h11.DONE:
                lines.append(("Connection", "close"))
        data = self._head(status, lines)
        sent = b"" if self._without_body else body
        if http is not None:
            data += (http.send(h11.Data(data=sent)) or b"") if sent else b""
            data += http.send(h11.EndOfMessage()) or b""
        else:
            data += sent
        self._deadline.for_body(len(data))
        await self._wire.send(data)
        self.file_bytes = 0
        self._counts[count.SENT_BYTES] += len(data)

    async def answer_file(self, status: int, headers: Headers, fd: int, part: range) -> None:
        """Send part of an open file; headers have its length."""
        head = self._head(status, headers)
        size = 0 if self._without_body else len(part)
        self._deadline.for_body(size)
        if size:
            await self._wire.send_with_file(head, fd, part)
        else:
            await self._wire.send(head)
        if (http := self._http) is not None:
            if size:
                http.send_with_data_passthrough(h11.Data(data=_Sized(size)))  # type: ignore[arg-type] # only its length is looked at
            http.send(h11.EndOfMessage())
        self.file_bytes = size
        self._counts[count.SENT_BYTES] += len(head) + size

    def _head(self, status: int, headers: Headers) -> bytes:
        self.status = status
        self._counts[count.request(self._method, status)] += 1
        headers = [("Date", http_date()), *headers]
        if self._http is not None:
            return self._http.send(h11.Response(status_code=status, headers=headers)) or b""
        lines = [_STATUS_LINES[status]]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    @property
    def is_plain(self) -> bool:
        """Whether the request was read without h11, and so may be answered without."""
        return self._http is None

    async def answer_plainly(self, status: int, head: bytes, fd: int, part: range) -> None:
        """As answer_file, for a plain GET and with a head that is made already."""
        self.status = status
        self._counts[count.request(self._method, status)] += 1
        size = len(part)
        self._deadline.for_body(size)
        await self._wire.send_with_file(head, fd, part)
        self.file_bytes = size
        self._counts[count.SENT_BYTES] += len(head) + size

    async def _next_request(self) -> Request | None:
        if not self._received:
            self._received = await self._more(MAX_HEAD_BYTES)
        else:
            self._deadline.for_head()
            await trio.lowlevel.checkpoint()  # pipelined requests take turns with other connections
        plain = parse_head(self._received)
        if plain is None:
            return await self._next_by_h11()
        self._deadline.suspend()
        self._received = self._received[plain.end :]
        self._method = plain.method
        self._without_body = plain.method == "HEAD"
        return Request(plain.method, plain.target, plain.headers)

    async def _next_by_h11(self) -> Request | None:
        self._deadline.for_head()
        self._http = http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        http.receive_data(self._received)
        self._received = b""
        self._method, self._without_body = "", False  # not those of the request before
        try:
            event = await self._next(http)
            if not isinstance(event, h11.Request):
                return None
            self._method = event.method.decode("ascii", "replace")
            self._without_body = event.method == b"HEAD"
            _check_size(event)
        except h11.RemoteProtocolError as error:
            if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                closing = [("Connection", "close")] if http.their_state is h11.DONE else []
                words = str(error).partition(_QUOTED)[0]
                await self.answer(error.error_status_hint, f"{words}\n", closing)
            return None
        headers = {bytes(name): bytes(value) for name, value in event.headers}
        if not headers.keys() & {b"content-length", b"transfer-encoding"}:
            await self._next(http)  # EndOfMessage, which follows at once
        length = headers.get(b"content-length", b"0")
        self._deadline.for_body(int(length))
        return Request(self._method, event.target.decode("ascii", "replace"), headers)

    async def _next(self, http: h11.Connection) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while True:
            event = http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._wire.send(http.send(go_on) or b"")
            http.receive_data(await self._more(PIECE_BYTES))

    async def _more(self, most: int) -> bytes:
        data = await self._wire.receive(most)
        self._counts[count.RECEIVED_BYTES] += len(data)
        return data

    async def _is_reusable(self) -> bool:
        """Drop what was not read of the request; whether another one may follow."""
        http = self._http
        assert http is not None
        with trio.move_on_after(LINGER_S):
            while http.their_state is h11.SEND_BODY and not self._holds_back:
                await self._next(http)
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            return False
        self._received, has_ended = http.trailing_data
        self._http = None
        return bool(self._received) or not has_ended


def _check_size(request: h11.Request) -> None:
    """h11 bounds a head only until it is complete."""
    lines = request.headers.raw_items()
    size = len(request.target) + sum(len(name) + len(value) for name, value in lines)
    if len(lines) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        raise HeadTooLarge


class _Sized:
    """Stands for body bytes that sendfile has sent; h11 takes their len."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size
