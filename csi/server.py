"""Sockets that answer calls, and the signals that end the driver.

SIGTERM finishes the calls in flight; volumes and the servers of images stay, and the next
driver on the same root adopts them.
"""

import os
import signal
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from clipfs import errors
from clipfs.log import log

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of unix(7), less its final NUL."""

THREADS = 256
"""A node runs 110 pods by default; each may have a publish in flight and a call that waits."""

GRACE_S = 110
"""Calls in flight have this long to finish: the kubelet gives up on them at 120 s."""


class Endpoint:
    """One unix socket and the services behind it.

    It gets its name by a rename, so that what a killed driver left is replaced in one step.
    """

    def __init__(
        self, path: Path, add_services: Callable[[grpc.Server], None], *, threads: int
    ) -> None:
        self._fresh = fresh_name(path)
        if max(len(os.fsencode(one)) for one in (path, self._fresh)) > MAX_SOCKET_PATH_BYTES:
            raise errors.InvalidInput(
                f"socket {path}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes"
            )
        if os.path.lexists(path) and not path.is_socket():
            raise errors.InvalidInput(f"{path} is there and is no socket; name another path")
        self.path = path
        self._add_services = add_services
        self._threads = threads
        self._refused = False
        self._ending: list[threading.Event] = []
        self._open()

    def is_there(self) -> bool:
        """Whether callers find it: its name is there, and nobody else's."""
        return _identity(self.path) == self._made

    def renew(self) -> None:
        """Answer anew if the socket's name is gone, with its folder perhaps; else do nothing."""
        if os.path.lexists(self.path):
            return
        old = self._server
        try:
            self._open()
        except errors.NodeFault as error:
            if not self._refused:
                log.warning("a socket is gone and cannot be made again", error=str(error))
            self._refused = True
            return
        self._refused = False
        self._ending = [one for one in self._ending if not one.is_set()] + [old.stop(GRACE_S)]
        log.warning("a socket was gone and is made again", path=str(self.path))

    def close(self) -> None:
        """Take no new call, finish those in flight. Another driver's socket is left alone."""
        if self.is_there():
            self.path.unlink(missing_ok=True)
        for one in (self._server.stop(GRACE_S), *self._ending):
            one.wait()

    def _open(self) -> None:
        fresh = self._fresh
        server = grpc.server(ThreadPoolExecutor(self._threads))
        self._add_services(server)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            server.add_insecure_port(f"unix:{fresh}")
            fresh.chmod(0o600)
            server.start()
            made = _identity(fresh)
            fresh.rename(self.path)
        except (OSError, RuntimeError) as error:  # gRPC says that it cannot bind by the latter
            server.stop(None)
            raise errors.NodeFault(f"socket {self.path}: {error}") from error
        self._server, self._made = server, made


def fresh_name(path: Path) -> Path:
    """Where the socket of path is made: its own among those of other drivers, and short.

    The kubelet passes over names with a dot.
    """
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def told_to_end() -> threading.Event:
    """Set at SIGTERM or SIGINT, from now on."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told
