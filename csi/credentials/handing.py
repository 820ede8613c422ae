"""Hands credentials to the servers of images, by a socket that only this user may use.

    with handing.running():
        handing.volume_here(image, volume)     before its image is mounted
        handing.volume_gone(volume.target)     whoever holds its credentials gets another's, or none

The protocol is `clipfs.image.driver`'s. Each question is answered in its own time; nothing that
a server says or does harms another.

Not here: which credentials (`lending`).
Source: socket(7), SO_PEERCRED.
"""

import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import trio

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.driver import Given, Hello, Lines
from clipfs.log import log
from clipfs.system.socket_names import short_name
from csi.credentials.lending import Lending, Lent
from csi.volume import Volume, name_of

SOCKET = "credentials.sock"
"""Its name below `run/`."""

BACKLOG = 128
MAX_QUESTIONS = 256
"""Under way, each in a thread: a node runs 110 pods by default, and a source may take a minute."""

_NONE = Lent(volume="", config=RegistryConfig.empty())
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(slots=True, eq=False)
class _Server:
    """One connection: what its end said last, and what it was given."""

    stream: trio.SocketStream
    said: Hello | None = None
    tried: list[RegistryConfig] = field(default_factory=list)
    turn: trio.Lock = field(default_factory=trio.Lock)


@dataclass(frozen=True, slots=True)
class _Loop:
    """What other threads need of the one that serves."""

    token: trio.lowlevel.TrioToken
    nursery: trio.Nursery


class Handing:
    def __init__(self, path: Path, lending: Lending) -> None:
        self._path = path
        self._lending = lending
        self._servers: set[_Server] = set()
        self._questions = trio.CapacityLimiter(MAX_QUESTIONS)
        self._loop: _Loop | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer, in a thread of its own, until the block ends. NodeFault without a socket."""
        listening = _bound(self._path)
        ready: Future[_Loop] = Future()
        thread = threading.Thread(target=self._run, args=(listening, ready))
        thread.start()
        try:
            self._loop = loop = ready.result()
            yield
        finally:
            self._loop = None
            if ready.done() and ready.exception() is None:
                with suppress(trio.RunFinishedError):
                    loop.token.run_sync_soon(loop.nursery.cancel_scope.cancel)
            thread.join()
            listening.close()
            self._path.unlink(missing_ok=True)

    def volume_here(self, image: Digest, volume: Volume) -> None:
        self._lending.add(image, volume)

    def volume_gone(self, target: Path) -> None:
        """Returns at once."""
        name = name_of(target)
        self._lending.remove(name)
        if (loop := self._loop) is not None:
            with suppress(trio.RunFinishedError):
                loop.token.run_sync_soon(self._take_back, loop.nursery, name)

    def _run(self, listening: socket.socket, ready: Future[_Loop]) -> None:
        """The thread's; what ends it too early is told to who waits for it, or else is a bug."""
        try:
            trio.run(self._serve, listening, ready)
        except BaseException as error:
            if ready.done():
                log.exception("credentials are handed to nobody any more, this is a bug")
            else:
                named = errors.node_fault(error) if isinstance(error, OSError) else error
                ready.set_exception(named)

    async def _serve(self, listening: socket.socket, ready: Future[_Loop]) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with listener, trio.open_nursery() as nursery:
            ready.set_result(_Loop(trio.lowlevel.current_trio_token(), nursery))
            await trio.serve_listeners(self._talk, [listener], handler_nursery=nursery)

    async def _talk(self, stream: trio.SocketStream) -> None:
        server = _Server(stream)
        self._servers.add(server)
        try:
            async with stream:
                lines = Lines(stream)
                while _is_ours(stream) and (line := await lines.next()) is not None:
                    server.said = said = msgspec.json.decode(line, type=Hello)
                    await self._survived(self._heard, server, said)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended
        except (errors.InvalidInput, ValueError, RecursionError):
            log.warning("a server's words are not understood, its connection is ended")
        finally:
            self._servers.discard(server)

    async def _heard(self, server: _Server, said: Hello) -> None:
        if said.wanted:
            await self._answer(server, said)
        elif not self._lending.is_here(said.volume):
            await self._replace(server, said)

    async def _answer(self, server: _Server, said: Hello) -> None:
        """Credentials that server has not been given yet; once there are none, from the first."""
        async with server.turn:
            lent = await self._another(said, server.tried, anew=True)
            if lent is None:
                server.tried.clear()
                await server.stream.send_all(_line(Given()))
            else:
                await self._give(server, said, lent)

    async def _replace(self, server: _Server, said: Hello) -> None:
        """In place of those of a volume that is gone; none is an empty config, not a null."""
        async with server.turn:
            lent = await self._another(said, (), anew=False)
            await self._give(server, said, lent or _NONE)

    async def _another(
        self, said: Hello, tried: Sequence[RegistryConfig], *, anew: bool
    ) -> Lent | None:
        ask = partial(
            self._lending.another, said.image, held=said.volume, tried=tuple(tried), anew=anew
        )
        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._questions)

    async def _give(self, server: _Server, said: Hello, lent: Lent) -> None:
        """Give lent, and what comes after it if its volume is gone before anybody could tell."""
        while True:
            server.said = msgspec.structs.replace(said, volume=lent.volume)
            server.tried.append(lent.config)
            given = Given(volume=lent.volume, config=msgspec.Raw(lent.config.to_json()))
            await server.stream.send_all(_line(given))
            if lent is _NONE or self._lending.is_here(lent.volume):
                return
            lent = await self._another(said, (), anew=False) or _NONE

    def _take_back(self, nursery: trio.Nursery, volume: str) -> None:
        for server in self._servers:
            if server.said is not None and server.said.volume == volume:
                nursery.start_soon(self._survived, self._replace, server, server.said)

    async def _survived(
        self, act: Callable[[_Server, Hello], Awaitable[None]], server: _Server, said: Hello
    ) -> None:
        """act, whatever comes of it: another server's connection is not to end with this one."""
        try:
            await act(server, said)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended
        except Exception:
            log.exception("handing out credentials failed; this is a bug", image=said.image)


def _line(given: Given) -> bytes:
    return msgspec.json.encode(given) + b"\n"


def _is_ours(stream: trio.SocketStream) -> bool:
    """Whether the peer runs as this process does."""
    peer = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(peer)
    return bool(uid == os.geteuid())


def _bound(path: Path) -> socket.socket:
    """A socket that listens at path, in the place of one that a killed driver left."""
    fresh = path.with_name(f".{path.name}.new")
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            fresh.unlink(missing_ok=True)
            with short_name(fresh) as name:
                listening.bind(name)
            fresh.chmod(0o600)
            listening.listen(BACKLOG)
            fresh.rename(path)
        except OSError as error:
            raise errors.node_fault(error) from error
        stack.pop_all()
    return listening
