"""An answer of the content cache, read off a socket: a head by h11, a body into one buffer.

The server is not trusted: how much it may send is known before anything is allocated.
Source: RFC 9112; only what our own server sends is understood: no chunked bodies.
"""

from dataclasses import dataclass

import h11
import trio

MAX_HEAD_BYTES = 16 << 10
MAX_WORDS_BYTES = 64 << 10
"""Of an answer that is not a success."""

_PIECE_BYTES = 4096

Head = h11.Response | h11.InformationalResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """etag: "" where the answer has none. keeps_open: whether the connection can be used again."""

    status: int
    body: bytearray
    etag: str
    keeps_open: bool


async def read_head(stream: trio.SocketStream, method: str, received: bytearray) -> Head:
    """The next head; what came behind it is left in received.

    Raises  h11.RemoteProtocolError if it is none, or the connection ended before it did
    """
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise h11.RemoteProtocolError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        piece = await stream.receive_some(_PIECE_BYTES)
        if not piece:
            raise h11.RemoteProtocolError("the connection ended before an answer")
        received += piece
    head = bytes(received[: end + 4])
    del received[: end + 4]
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    http.receive_data(head)
    event = http.next_event()
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise h11.RemoteProtocolError("not the head of an answer")
    return event


async def read_body(
    stream: trio.SocketStream, head: Head, received: bytearray, *, most_bytes: int
) -> Answer:
    """The whole answer; received is what of its body has come already.

    most_bytes  of a success; other answers hold a few words
    Raises      h11.RemoteProtocolError if it is longer, of unknown length, or ends early
    """
    if isinstance(head, h11.InformationalResponse):
        raise h11.RemoteProtocolError(f"{head.status_code} where an answer should be")
    headers = dict(head.headers)
    most = most_bytes if head.status_code in (200, 206) else MAX_WORDS_BYTES
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:
        raise h11.RemoteProtocolError("an answer without a Content-Length")
    if int(length) > most or len(received) > int(length):
        raise h11.RemoteProtocolError(f"an answer of more than {min(most, int(length))} bytes")
    body = bytearray(int(length))
    body[: len(received)] = received
    view, at = memoryview(body), len(received)
    while at < len(body):
        count = await stream.socket.recv_into(view[at:])
        if not count:
            raise h11.RemoteProtocolError("the connection ended inside a body")
        at += count
    return Answer(
        status=head.status_code,
        body=body,
        etag=headers.get(b"etag", b"").decode("latin-1"),
        keeps_open=headers.get(b"connection", b"").lower() != b"close",
    )
