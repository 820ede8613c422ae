"""The driver's process: sockets up, calls answered, sockets down.

SIGTERM finishes the calls in flight; volumes and the servers of images stay, and the next
driver on the same root adopts them.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import structlog

from clipfs import errors

log = structlog.get_logger()

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of unix(7), less its final NUL."""

THREADS = 128
"""A node runs 110 pods by default, and each may have a publish in flight."""

GRACE_S = 110
"""Calls in flight have this long to finish: the kubelet gives up on them at 120 s."""


@contextmanager
def serving(
    path: Path, add_services: Callable[[grpc.Server], None], *, threads: int
) -> Iterator[None]:
    """Answer calls on the unix socket at path while the block runs.

    The socket gets its name by a rename, so that one that a killed driver left is replaced in
    one step. At the end no new call is taken, and those in flight finish.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(".new")  # short, and the kubelet passes over names with a dot
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise errors.InvalidInput(
            f"socket {path}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes"
        )
    server = grpc.server(ThreadPoolExecutor(threads))
    add_services(server)
    server.add_insecure_port(f"unix:{fresh}")
    server.start()
    fresh.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        server.stop(GRACE_S).wait()


def wait_for_the_end() -> None:
    """Return at SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
