"""Runs a program for its answer: bounded in time and in bytes, and with all that it has started.

It has a session of its own. When it ends, or is ended, what it has left behind in that ends with
it; one that left the session and still holds its pipes keeps nobody waiting. What it says on stderr
is counted and not kept: it may be anything, a secret too.

Not here: what is asked, and what an answer means (`plugin`).
Source: pidfd_open(2).
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from clipfs.system.processes import end_of, said_now

REAP_S = 5
"""For a killed program that the kernel does not let go, in a call to a disk perhaps."""

LOOK_S = 0.5
"""Between two looks whether the answer is still wanted."""


class TookTooLong(Exception):
    """It did not end in time."""


class NotWanted(Exception):
    """Nobody wants its answer any more."""


class SaidTooMuch(Exception):
    """Its answer is longer than it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a program came to: its exit status, its answer, and the bytes that it said besides."""

    status: int
    answer: bytes = field(repr=False)
    stderr_bytes: int


def run(
    words: Sequence[str | Path],
    request: bytes,
    *,
    environment: Mapping[str, str],
    time_s: float,
    max_bytes: int,
    is_wanted: Callable[[], bool],
) -> Ended:
    """The program's end, after request on its stdin.

    Raises  TookTooLong, SaidTooMuch, NotWanted: it was killed; OSError or ValueError: it cannot
            be run
    """
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        bufsize=0,
    )
    try:
        talk = _Talk(process, request, max_bytes)
        talk.until_end(time.monotonic() + time_s, is_wanted)
    finally:
        _end(process)
    return Ended(
        status=process.returncode, answer=bytes(talk.answer), stderr_bytes=talk.stderr_bytes
    )


class _Talk:
    """What goes through a program's pipes; each step says whether there may be more of it."""

    def __init__(self, process: subprocess.Popen[bytes], request: bytes, max_bytes: int) -> None:
        self._process = process
        self._request = request
        self._max_bytes = max_bytes
        self._has_ended = False
        self.answer = bytearray()
        self.stderr_bytes = 0

    def until_end(self, until_s: float, is_wanted: Callable[[], bool]) -> None:
        with selectors.DefaultSelector() as selector, end_of(self._process.pid) as end:
            for file, event, step in (
                (self._process.stdin, selectors.EVENT_WRITE, self._ask),
                (self._process.stdout, selectors.EVENT_READ, self._hear),
                (self._process.stderr, selectors.EVENT_READ, self._count),
            ):
                assert file is not None
                os.set_blocking(file.fileno(), False)
                selector.register(file, event, partial(step, file))
            selector.register(end, selectors.EVENT_READ, self._note_end)
            while not self._has_ended:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    raise TookTooLong
                if not is_wanted():
                    raise NotWanted
                _step(selector, min(left_s, LOOK_S))
        assert self._process.stdout is not None
        while self._hear(self._process.stdout):
            pass  # what it said before its end, and no more than it may

    def _ask(self, stdin: IO[bytes]) -> bool:
        try:
            self._request = self._request[os.write(stdin.fileno(), self._request) :]
        except BrokenPipeError:
            self._request = b""  # it does not want to know
        if not self._request:
            stdin.close()
        return bool(self._request)

    def _hear(self, stdout: IO[bytes]) -> bool:
        data = said_now(stdout.fileno())
        self.answer += data
        if len(self.answer) > self._max_bytes:
            raise SaidTooMuch
        return bool(data)

    def _count(self, stderr: IO[bytes]) -> bool:
        data = said_now(stderr.fileno())
        self.stderr_bytes += len(data)
        return bool(data)

    def _note_end(self) -> bool:
        self._has_ended = True
        return False


def _step(selector: selectors.BaseSelector, wait_s: float) -> None:
    for key, _ in selector.select(wait_s):
        fd = key.fd
        if not key.data():
            selector.unregister(fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what there is of the program and of what it has started, and close the pipes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
