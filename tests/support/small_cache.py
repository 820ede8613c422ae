"""A replica of the content cache that does as the test says, inside the test's own trio.

A small real one: objects, conditions and claims as the contract has them, on a real socket; and
it can hang, be slow, and be stopped and started at its port again.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import trio

from tests.support.registry import Certificate

IDS = ("content-0", "content-1", "content-2")

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(slots=True, kw_only=True)
class SmallCache:
    """pause_s: before each answer; health_s: before that of /healthz. asked: what was, in order.

    unreadable  keys of objects that its disk fails to read: the connection ends instead
    """

    nursery: trio.Nursery
    address: str
    port: int
    id: str | None
    tls: ssl.SSLContext | None
    objects: dict[str, bytes] = field(default_factory=dict)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    pause_s: float = 0
    health_s: float = 0
    unreadable: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    connections: int = 0
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _ended: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.address}:{self.port}"

    def asked_for(self, words: str) -> int:
        """How many requests had words in them."""
        return sum(words in one for one in self.asked)

    async def start(self) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host=self.address)
        self.port = listeners[0].socket.getsockname()[1]
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.nursery.start_soon(self._run, listeners)

    async def stop(self) -> None:
        """Close all connections and the port."""
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self, listeners: list[trio.SocketListener]) -> None:
        try:
            with self._scope:
                await trio.serve_listeners(self._serve, listeners)
        finally:
            self._ended.set()

    async def _serve(self, plain: trio.SocketStream) -> None:
        self.connections += 1
        stream: Stream = plain
        if self.tls:
            stream = trio.SSLStream(plain, self.tls, server_side=True, https_compatible=True)
        try:
            while await self._answer(stream):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            plain.socket.close()

    async def _answer(self, stream: Stream) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = await stream.receive_some(65536)
            if not piece:
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        if "expect" in fields:
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < int(fields.get("content-length", 0)):
            body += await stream.receive_some(1 << 20)
        method, target, _version = line.split()
        self.asked.append(f"{method} {target}")
        await trio.sleep(self.health_s if target == "/healthz" else self.pause_s)
        if method == "GET" and target.removeprefix("/v1/objects/") in self.unreadable:
            return False
        status, said, etag = self._said(method, target, fields, body)
        tag = f"ETag: {etag}\r\n" if etag else ""
        answer = f"HTTP/1.1 {status} \r\nContent-Length: {len(said)}\r\n{tag}\r\n"
        await stream.send_all(answer.encode() + said)
        return True

    def _said(
        self, method: str, target: str, fields: dict[str, str], body: bytes
    ) -> tuple[int, bytes, str]:
        if target == "/healthz":
            told = {"status": "ok", "id": self.id}
            return 200, b"ok\n" if self.id is None else json.dumps(told).encode(), ""
        if target.startswith("/v1/claims/"):
            status, said = self._claimed(method, target.removeprefix("/v1/claims/"), body)
            return status, said, ""
        key = target.removeprefix("/v1/objects/")
        stands, match = self.objects.get(key), fields.get("if-match")
        etag = etag_of(stands) if stands is not None else ""
        if method == "GET":
            if stands is None:
                return 404, b"content not found\n", ""
            if "range" not in fields:
                return 200, stands, etag
            first, last = fields["range"].removeprefix("bytes=").split("-")
            return 206, stands[int(first) : int(last) + 1], etag
        if match is not None and match != etag:
            return 412, b"another one stands there\n", ""
        if method == "DELETE":
            return (204 if self.objects.pop(key, None) is not None else 404), b"", ""
        if stands not in (None, body) and match is None:
            return 409, b"other bytes stand there\n", ""
        self.objects[key] = body
        return (200 if stands == body else 201), b"", etag_of(body)

    def _claimed(self, method: str, key: str, body: bytes) -> tuple[int, bytes]:
        wish = json.loads(body)
        held = self.claims.get(key)
        if held is not None and held["holder"] != wish["holder"]:
            return 409, json.dumps(held).encode()
        if method == "DELETE":
            self.claims.pop(key, None)
            return 204, b""
        self.claims[key] = {**wish, "seconds_left": 15}
        return 201, json.dumps(self.claims[key]).encode()


def etag_of(data: bytes) -> str:
    return f'"{sha256(data).hexdigest()}"'


@asynccontextmanager
async def small_cache(
    id: str | None = None,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    tls: Certificate | None = None,
) -> AsyncIterator[SmallCache]:
    """A replica that runs, until the block ends."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
    async with trio.open_nursery() as nursery:
        cache = SmallCache(nursery=nursery, address=address, port=port, id=id, tls=context)
        await cache.start()
        yield cache
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def small_caches(*ids: str) -> AsyncIterator[dict[str, SmallCache]]:
    async with AsyncExitStack() as stack:
        yield {one: await stack.enter_async_context(small_cache(one)) for one in ids}
