"""Runs one `clipfs` command for the driver: reads what it tells, stops it when nobody wants it.

Credentials reach it through a memory file, never through a file, an argument or the environment.

Not here: what becomes of its mount (`csi.mounter`).
"""

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from clipfs.cli.progress import Told
from clipfs.log import log
from clipfs.system.durable import write_all
from clipfs.system.processes import said_now
from csi.about import fields_for_a_command, fields_for_a_server
from csi.launcher import Command, Launcher

LOOK_S = 0.5
"""Between two looks whether it is still wanted."""

STOP_S = 5
"""What a command that is stopped may take to tidy up after itself."""

_READ_BYTES = 1 << 16


def run_mount(
    launcher: Launcher,
    words: Sequence[str],
    files: Mapping[str, bytes],
    *,
    on_told: Callable[[Told], None],
    is_wanted: Callable[[], bool],
) -> subprocess.CompletedProcess[bytes]:
    """`clipfs mount` with words, to its end.

    files      what it reads, by the option that names it; may be secret
    on_told    gets what it tells of its progress
    is_wanted  asked now and then, in the same thread; once it says no the command is stopped
    """
    with _pipe() as (reading, writing):
        told = ["--progress-fd", str(writing), "--log-to", "stderr"]
        told += ["--log-fields", fields_for_a_server()]
        return _run(
            launcher,
            ["mount", *words, *told],
            files,
            pass_fds=[writing],
            lines=_Lines(reading, on_told),
            is_wanted=is_wanted,
        )


def run_index(
    launcher: Launcher,
    words: Sequence[str],
    files: Mapping[str, bytes],
    *,
    on_told: Callable[[Told], None],
    is_wanted: Callable[[], bool],
) -> subprocess.CompletedProcess[bytes]:
    """`clipfs index`, as `run_mount`."""
    with _pipe() as (reading, writing):
        told = ["--progress-fd", str(writing), "--log-fields", fields_for_a_command()]
        return _run(
            launcher,
            ["index", *words, *told],
            files,
            pass_fds=[writing],
            lines=_Lines(reading, on_told),
            is_wanted=is_wanted,
        )


def _run(
    launcher: Launcher,
    words: Sequence[str],
    files: Mapping[str, bytes],
    *,
    pass_fds: Sequence[int],
    lines: "_Lines",
    is_wanted: Callable[[], bool],
) -> subprocess.CompletedProcess[bytes]:
    with _memory_files(files) as fds, _pipe() as (stdout, writing), open(os.devnull) as null:
        said_words = [
            *(*words, "--json"),
            *(word for option, fd in fds.items() for word in (option, f"/dev/fd/{fd}")),
        ]
        command = launcher.start(
            said_words,
            stdin=null.fileno(),
            stdout=writing,
            pass_fds=(*fds.values(), *pass_fds),
        )
        try:
            said = _followed(command, stdout, lines, is_wanted)
        except BaseException:
            command.kill()
            raise
        finally:
            code = command.wait()
    return subprocess.CompletedProcess(said_words, code, said)


def _followed(
    command: Command,
    stdout: int,
    lines: "_Lines",
    is_wanted: Callable[[], bool],
) -> bytes:
    """What it says on stdout until it has ended, whoever holds that open, or closes it."""
    said, stopped_s = b"", None
    os.set_blocking(stdout, False)
    with selectors.DefaultSelector() as selector:
        for fd in (command.end, stdout, lines.reading):
            selector.register(fd, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(LOOK_S)}
            lines.read()
            if stdout in ready or command.end in ready:
                data = said_now(stdout)
                said += data
                if not data and command.end in ready:
                    return said
                if not data and stdout in ready:
                    selector.unregister(stdout)
            if not is_wanted():
                now = time.monotonic()
                stopped_s = _stopped(command, now) if stopped_s is None else stopped_s
                if now > stopped_s + STOP_S:
                    command.kill()


class _Lines:
    """The pipe of progress, whose other end is open here, too: it has no end."""

    def __init__(self, reading: int, on_told: Callable[[Told], None]) -> None:
        os.set_blocking(reading, False)
        self.reading = reading
        self._on_told = on_told
        self._rest = b""

    def read(self) -> None:
        """Tell of what is there now."""
        with suppress(BlockingIOError):
            while True:
                *lines, self._rest = (self._rest + os.read(self.reading, _READ_BYTES)).split(b"\n")
                for line in lines:
                    self._on_told(msgspec.json.decode(line, type=Told))


def _stopped(command: Command, now: float) -> float:
    """Ask it to end: it gives back what it has claimed and begun. The time, now."""
    log.info("a mount that nobody wants any more is stopped", pid=command.pid)
    command.interrupt()
    return now


@contextmanager
def _memory_files(files: Mapping[str, bytes]) -> Iterator[dict[str, int]]:
    fds: dict[str, int] = {}
    try:
        for option, content in files.items():
            fds[option] = os.memfd_create(option.strip("-"), 0)
            write_all(fds[option], content, 0)
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)
