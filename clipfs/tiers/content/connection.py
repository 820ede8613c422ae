"""One connection to a content cache, plain or by TLS: a request out, its answer in, by turns.

The hot path, so a socket of our own and no client library: a request is one send, a body goes
straight into one buffer.

Not here: which requests there are, and connections kept (`clipfs.tiers.content.exchange`).
Source: RFC 9110 ("Expect") and RFC 9112.
"""

import ssl
from dataclasses import dataclass
from typing import Self

import h11
import trio

from clipfs.tiers.content.answer import ANY_LENGTH, Answer, Pace, body_length, read_body, read_head
from clipfs.tiers.content.tls_stream import TlsStream

SMALL_BODY_BYTES = 64 << 10
"""A body up to here goes out with its head; a larger one waits until it is wanted."""

TRANSFER_TIMEOUT_S = 30
"""Until a body is sent and answered, the server's fsync of a stored page included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where one replica listens.

    host     as its URL says, which the Host header and its certificate are to say too
    address  one of the host's, or the host itself
    """

    host: str
    address: str
    port: int
    tls: bool

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """head: all lines but Expect and the empty one; most_bytes: of the body of a success."""

    method: str
    head: str
    data: bytes | memoryview = b""
    most_bytes: int = 0

    @property
    def waits(self) -> bool:
        """Whether a refusal is to come before the body is sent for nothing."""
        return len(self.data) > SMALL_BODY_BYTES


class Connection:
    """Asks one thing at a time."""

    def __init__(self, stream: trio.SocketStream | TlsStream) -> None:
        self._stream = stream

    @classmethod
    async def open(cls, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Self:
        """OSError, BrokenResourceError if there is no such server, or not the one it should be.

        tls  who is trusted, for an endpoint that speaks TLS
        """
        plain = await trio.open_tcp_stream(endpoint.address, endpoint.port)
        if tls is None:
            return cls(plain)
        return cls(await TlsStream.open(plain, tls, endpoint.host))

    def close(self) -> None:
        """Without a word to the server: nothing is on its way that would matter."""
        if isinstance(self._stream, trio.SocketStream):
            self._stream.socket.close()
        else:
            self._stream.close()

    async def ask(
        self, request: Request, *, deadline: float, pace: Pace = ANY_LENGTH
    ) -> tuple[Answer, bool]:
        """The answer, and whether the connection can be used again.

        deadline  for the answer's head; bytes that go put it off, and those that come, at pace
        Raises    TooSlowError; OSError, BrokenResourceError, h11.RemoteProtocolError if the
                  connection broke
        """
        received, unsent = bytearray(), request.waits
        with trio.fail_at(deadline) as scope:
            await self._stream.send_all(_first_bytes(request))
            head = await read_head(self._receive_into, request.method, received)
            if unsent and isinstance(head, h11.InformationalResponse):
                scope.deadline += TRANSFER_TIMEOUT_S
                await self._stream.send_all(request.data)
                head = await read_head(self._receive_into, request.method, received)
                unsent = False
            length = body_length(head, most_bytes=request.most_bytes)
            answer = await read_body(self._receive_into, head, received, length, scope, pace)
        return answer, answer.keeps_open and not unsent

    async def _receive_into(self, buffer: memoryview) -> int:
        if isinstance(self._stream, trio.SocketStream):
            return await self._stream.socket.recv_into(buffer)
        return await self._stream.receive_into(buffer)


def _first_bytes(request: Request) -> bytes:
    expect = "Expect: 100-continue\r\n" if request.waits else ""
    head = f"{request.head}{expect}\r\n".encode()
    return head if request.waits else head + request.data
