"""The content cache's own handler of a connection, over bytes in memory and a real folder.

Each conversation begins with the same objects. Nothing else is made up: requests are read,
objects stored and ranges cut by what serves a real socket.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import h11
import trio
from structlog.testing import capture_logs

from clipfs.content.connection import Connection, Request
from clipfs.content.counters import Counters
from clipfs.content.misses import Misses
from clipfs.content.store import Store
from clipfs.content.tokens import Tokens
from clipfs.content.worker import Shared, Worker
from tests.fuzz.engine import IN_MEMORY
from tests.support.content import READ_TOKEN, TOKEN


class Conversation(NamedTuple):
    """sent: all bytes of the server; objects: what is stored in the end, by key."""

    requests: list[Request]
    sent: bytes
    objects: dict[str, bytes]


class Handler:
    """Owns a folder of its own, in memory if that can be had."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        """objects  by key, each at the beginning of every conversation"""
        self._objects = objects
        within = os.environ.get("TMPDIR", IN_MEMORY)  # the engine cleans up there
        self._home = tempfile.TemporaryDirectory(prefix="clip-handler-", dir=within)
        self._folder = Path(self._home.name)
        self._store = Store.open(self._folder)
        shared = Shared(
            listeners=(),
            store=lambda: Store.attach(self._folder),
            tokens=Tokens(write=TOKEN, read=READ_TOKEN),
            misses=Misses(),
            counters=Counters(1),
            tls=None,
            after_death=lambda: None,
        )
        self._worker = _Worker(shared, 0)
        self.etags = self._begin()

    def talk(self, pieces: Sequence[bytes]) -> Conversation:
        """Let the client say pieces, and then no more."""
        self._begin()
        wire = _MemoryWire(pieces)
        with capture_logs():
            trio.run(self._worker.serve, wire)
        return Conversation(self._worker.seen, bytes(wire.sent), dict(self._stored()))

    def leftovers(self) -> list[str]:
        return os.listdir(self._folder / "incoming")

    def _begin(self) -> dict[str, str]:
        """As it was; the objects' ETags."""
        for name in ("objects", "incoming", "claims"):
            for path in (self._folder / name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._store._ledger.recount()
        etags = {}
        for key, data in self._objects.items():
            with self._store.receive(key, len(data), replaces=None) as incoming:
                incoming.write(data)
                etags[key] = incoming.finish(sha256(data).digest()).etag
        return etags

    def _stored(self) -> Iterator[tuple[str, bytes]]:
        top = self._folder / "objects"
        for path in top.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(top)), path.read_bytes()


class _Worker(Worker):
    """Remembers what it was asked."""

    seen: list[Request]

    async def serve(self, wire: "_MemoryWire") -> None:
        self.seen = []
        self._hot.forget()
        with suppress(h11.RemoteProtocolError, ConnectionError):  # all else is the server's fault
            await self._answer_all(wire)

    async def _respond(self, http: Connection, request: Request) -> None:
        self.seen.append(request)
        await super()._respond(http, request)


class _MemoryWire:
    """A `Wire` whose client never reads slowly."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in reversed(pieces) if piece]
        self.sent = bytearray()

    async def receive(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._pieces:
            return b""
        piece = self._pieces.pop()
        if rest := piece[most:]:
            self._pieces.append(rest)
        return piece[:most]

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def send_with_file(self, head: bytes, fd: int, part: range) -> None:
        self.sent += head + os.pread(fd, len(part), part.start)

    async def close(self) -> None:
        pass
