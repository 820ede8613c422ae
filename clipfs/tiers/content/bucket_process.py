"""A bucket in a process of its own: for a process that forks later, or is a fork.

obstore's threads do not outlive a fork, and nothing starts them again: in the child every call
waits for ever. So what `clipfs mount` asks before it leaves its server behind, it asks here; the
server's own bucket is in the server.

The process ends with its last connection.

Not here: what is said on them (`clipfs.tiers.content.bucket_wire`); the other end
(`clipfs.tiers.content.bucket_worker`).
"""

import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import msgspec

from clipfs.system.child import keep_descriptors
from clipfs.tiers.content.bucket import NoAnswer, Standing
from clipfs.tiers.content.bucket_wire import FAILURES, Answer, Connection, Request

CONNECTIONS = 4
"""Calls at the same time; before a fork they are few, and small."""


class BucketProcess:
    """A `Bucket` elsewhere, with its methods; open it with `BucketProcess.open`."""

    def __init__(
        self, process: "subprocess.Popen[bytes] | _Fork", idle: queue.SimpleQueue[Connection]
    ) -> None:
        self.process = process
        self._idle = idle

    @classmethod
    @contextmanager
    def open(cls, url: str, *, ca_pem: str = "", may_fork: bool = False) -> Iterator[Self]:
        """The process that asks url, while it loads; dead after the block.

        may_fork  this process has one thread, and has not used obstore: a fork loads in half the
                  time
        """
        idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        with ExitStack() as stack:
            theirs: list[socket.socket] = []
            for _ in range(CONNECTIONS):
                mine, other = socket.socketpair()
                theirs.append(stack.enter_context(other))
                idle.put(stack.enter_context(Connection(mine)))
            fds = [one.fileno() for one in theirs]
            process = (_Fork if may_fork else _executed)(url, ca_pem, fds)
            for one in theirs:
                one.close()
            try:
                yield cls(process, idle)
            finally:
                process.kill()  # first: who waits for an answer holds its connection
                process.wait()

    def ready(self) -> None:
        """Return once it has loaded. Raises InvalidInput: there can be no such bucket."""
        self._call(Request("ready"))

    def check(self) -> None:
        self._call(Request("check"))

    def get(self, key: str, *, part: range | None = None) -> Standing | None:
        asked = None if part is None else (part.start, part.stop)
        answer, data = self._call(Request("get", key, asked))
        if answer.version is None or answer.modified is None:
            return None
        return Standing(data, answer.version, answer.modified)

    def version(self, key: str) -> str | None:
        return self._call(Request("version", key))[0].version

    def create(self, key: str, data: bytes | memoryview) -> str:
        return self._call(Request("create", key), data)[0].version or ""

    def update(self, key: str, data: bytes | memoryview, version: str) -> str:
        return self._call(Request("update", key, version=version), data)[0].version or ""

    def overwrite(self, key: str, data: bytes | memoryview) -> str:
        return self._call(Request("overwrite", key), data)[0].version or ""

    def remove(self, key: str) -> None:
        self._call(Request("remove", key))

    def _call(self, request: Request, data: bytes | memoryview = b"") -> tuple[Answer, bytearray]:
        connection = self._idle.get()
        try:
            connection.send(msgspec.structs.replace(request, size=len(data)), data)
            answer = msgspec.json.decode(connection.line(), type=Answer)
            received = connection.data(answer.size)
        except (OSError, EOFError, ValueError) as error:
            raise NoAnswer("the process that asks the object store has died") from error
        finally:
            self._idle.put(connection)
        if answer.failed is not None:
            raise FAILURES[answer.failed](answer.message)
        return answer, received


def _executed(url: str, ca_pem: str, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "clipfs.tiers.content.bucket_worker", url]
    with open(os.memfd_create("ca"), "r+") as stdin:
        stdin.write(ca_pem)
        stdin.seek(0)
        return subprocess.Popen([*command, *map(str, fds)], stdin=stdin, pass_fds=fds)


class _Fork:
    """This process again, as the one that asks."""

    def __init__(self, url: str, ca_pem: str, fds: Sequence[int]) -> None:
        self._pid = os.fork()
        if self._pid == 0:
            try:
                keep_descriptors(fds)
                from clipfs.tiers.content.bucket_worker import serve

                serve(url, ca_pem, fds)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:  # the caller's stack is not this process's to unwind
                os._exit(1)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # SIGCHLD is ignored
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
