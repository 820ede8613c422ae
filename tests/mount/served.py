"""Starts `tests.mount.front_server`, freezes it, and asks its mount in a child process."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipfs.mount import syscalls

FIRST_CLOSED = "sizes/1"
"""The first close of a file asks the server whether it wants to hear of closes: it does not."""
ANSWER_S = 30
"""How long a question may take on a busy machine; one that is not answered takes for ever."""


@dataclass(frozen=True, slots=True)
class Served:
    """A mounted image: where, by which process, with which index."""

    mount: Path
    pid: int
    device: str
    index: Path

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server gets no turn while the block runs: what is answered, the kernel answers."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def serving(image: bytes, payloads: Sequence[bytes], home: Path) -> Iterator[Served]:
    """image, mounted by our front while the block runs."""
    index, mount = home / "index", home / "mount"
    index.write_bytes(image)
    mount.mkdir()
    files = [home / f"payload-{number}" for number in range(len(payloads))]
    for path, payload in zip(files, payloads, strict=True):
        path.write_bytes(payload)
    command = [sys.executable, "-m", "tests.mount.front_server", str(index), str(mount)]
    with subprocess.Popen([*command, *map(str, files)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            device = server.stdout.readline().decode().strip()
            assert device, "the server ended before its mount was ready"
            (mount / FIRST_CLOSED).read_bytes()
            yield Served(mount, server.pid, device, index)
        finally:
            syscalls.detach(mount)
            server.kill()  # a copy of the mount in somebody's namespace would keep it


def is_answered(question: Callable[[], object], *, within_s: float = ANSWER_S) -> bool:
    """Whether question comes to its end in a child process, which is killed if it does not.

    Its end is not waited for: a request of its own may hold it until the server goes on.
    """
    child = multiprocessing.get_context("fork").Process(target=question, daemon=True)
    child.start()
    child.join(within_s)
    if child.is_alive():
        child.kill()
    return child.exitcode == 0
