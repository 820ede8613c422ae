"""An answer of the content cache, read off a connection: a head by h11, a body into one buffer.

The server is not trusted: how much it may send is known before anything is allocated.
Source: RFC 9112; only what our own server sends is understood: no chunked bodies.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11
import trio

MAX_HEAD_BYTES = 16 << 10
MAX_WORDS_BYTES = 64 << 10
"""Of an answer that is not a success."""

LEAST_BYTES_PER_S = 4 << 20
"""A body that comes slower than this is given up, once the time for the head is over too; a mount's
look-ups are in more of a hurry (`clipfs.tiers.content.patience`)."""

_PIECE_BYTES = 4096


class NoAnswer(h11.RemoteProtocolError):
    """The connection ended before the head of an answer."""

    def __init__(self) -> None:
        super().__init__("the connection ended before an answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How bytes that come put a deadline off: by what they take at this speed, never beyond end."""

    least_bytes_per_s: float = LEAST_BYTES_PER_S
    end: float = math.inf


ANY_LENGTH = Pace()

Head = h11.Response | h11.InformationalResponse
ReceiveInto = Callable[[memoryview], Awaitable[int]]
"""Fills the beginning of a buffer; how many bytes, 0 at the stream's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """etag: "" where the answer has none. keeps_open: whether the server reads on."""

    status: int
    body: bytearray
    etag: str
    keeps_open: bool


async def read_head(receive_into: ReceiveInto, method: str, received: bytearray) -> Head:
    """The next head; what came behind it is left in received.

    Raises  h11.RemoteProtocolError if it is none, or the connection ended before it did
    """
    piece = memoryview(bytearray(_PIECE_BYTES))
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise h11.RemoteProtocolError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        count = await receive_into(piece)
        if not count:
            raise NoAnswer
        received += piece[:count]
    head = bytes(received[: end + 4])
    del received[: end + 4]
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    http.receive_data(head)
    event = http.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise h11.RemoteProtocolError("not the head of an answer")
    return event


def body_length(head: Head, *, most_bytes: int) -> int:
    """How many bytes follow the head.

    most_bytes  of a success; other answers hold a few words
    Raises      h11.RemoteProtocolError if they are more, or nobody knows how many
    """
    if isinstance(head, h11.InformationalResponse):
        raise h11.RemoteProtocolError(f"{head.status_code} where an answer should be")
    headers = dict(head.headers)
    length = headers.get(b"content-length", b"0" if head.status_code == 204 else b"")
    if not length.isdigit() or b"transfer-encoding" in headers:
        raise h11.RemoteProtocolError("an answer without a Content-Length")
    most = max(most_bytes if head.status_code in (200, 206) else 0, MAX_WORDS_BYTES)
    if int(length) > most:
        raise h11.RemoteProtocolError(f"an answer of more than {most} bytes")
    return int(length)


async def read_body(
    receive_into: ReceiveInto,
    head: Head,
    received: bytearray,
    length: int,
    scope: trio.CancelScope,
    pace: Pace,
) -> Answer:
    """The whole answer; received is what of its body has come already.

    scope   its deadline is put off as bytes come, at pace
    Raises  h11.RemoteProtocolError if more comes, or less
    """
    if len(received) > length:
        raise h11.RemoteProtocolError(f"an answer of more than {length} bytes")
    body = bytearray(length)
    body[: len(received)] = received
    view, at = memoryview(body), len(received)
    while at < length:
        count = await receive_into(view[at:])
        if not count:
            raise h11.RemoteProtocolError("the connection ended inside a body")
        at += count
        scope.deadline = min(scope.deadline + count / pace.least_bytes_per_s, pace.end)
    headers = dict(head.headers)
    return Answer(
        status=head.status_code,
        body=body,
        etag=headers.get(b"etag", b"").decode("latin-1"),
        keeps_open=headers.get(b"connection", b"").lower() != b"close",
    )
