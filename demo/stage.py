"""Where the demo plays: one folder, its processes and mounts, and the end of all of them.

All that the demo starts inherits `CLIP_DEMO_STAGE=<folder>`, and all that it mounts is below
the folder. So the end needs no book-keeping, and finds servers that have detached themselves:
it looks through /proc for the one and through mountinfo for the other.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

MARK = "CLIP_DEMO_STAGE"
PARENT = "/var/tmp"
"""On disk where /tmp may be memory: the disk tier's row should be a disk's."""

NEEDED_BYTES = 3 << 30
END_S = 5
"""How long a process may take to end by itself before it is killed."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotAsPromised(Exception):
    """Something is not as the README says; the message says what."""


class Stopped(Exception):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@dataclass(frozen=True, slots=True)
class Service:
    """A program that runs until the stage is cleared; stdout and stderr are in log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, probe: Callable[[], T | None], *, within_s: float = 20) -> T:
        """What probe answers once it is true; NotAsPromised if the program ends before."""

        def alive() -> T | None:
            if self.process.poll() is not None:
                raise NotAsPromised(f"{self.name} ended at once: {last_words(self.log)}")
            return probe()

        return wait_for(alive, f"{self.name} is ready", within_s=within_s)


@dataclass(frozen=True, slots=True)
class Stage:
    """The demo's folder and whatever runs in its name; `children` are to be reaped."""

    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *command: str) -> Service:
        """Start a program of its own session: Ctrl-C is for the demo, which then ends it."""
        log = self.folder / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self.children.append(process)
        return Service(name, process, log)

    def run(self, *command: str) -> str:
        """What a program says on stdout; NotAsPromised with its stderr if it fails."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment(),
            check=False,
        )
        if done.returncode:
            words = " ".join(command[:2])
            raise NotAsPromised(f"{words} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def processes(self) -> list[int]:
        """Pids of the living processes that carry this stage's mark, our own apart."""
        mark = f"{MARK}={self.folder}".encode()
        return [pid for pid in _pids() if mark in _environment_of(pid)]

    def mounts(self) -> list[str]:
        """Mount points below the folder, in the order in which they were mounted."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in lines]
        return [point for point in points if point.startswith(f"{self.folder}/")]

    def clear(self) -> list[str]:
        """End the processes, unmount, remove the files; what could not be is named."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._unmount()
            for pid in self.processes():
                _send(pid, number)
            end = time.monotonic() + END_S
            while self.processes() and time.monotonic() < end:
                time.sleep(0.02)
        self._unmount()
        for child in self.children:
            child.poll()
        left = [f"process {pid}" for pid in self.processes()]
        left += [f"mount {point}" for point in self.mounts()]
        if not self.mounts():
            shutil.rmtree(self.folder, ignore_errors=True)
        return left + ([f"folder {self.folder}"] if self.folder.exists() else [])

    def _unmount(self) -> None:
        """Lazily and by name alone: a mount whose server is dead must not hang the end."""
        for point in reversed(self.mounts()):
            subprocess.run(
                ["umount", "--lazy", "--no-canonicalize", point], capture_output=True, check=False
            )

    def _environment(self) -> dict[str, str]:
        """Ours and the mark; what is on loopback is not for a proxy that the user may have."""
        more = {MARK: str(self.folder), "LC_ALL": "C.UTF-8", "no_proxy": "127.0.0.1"}
        return {**os.environ, **more}


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage that is cleared however the block ends: done, failed, Ctrl-C or SIGTERM.

    Raises  Stopped for the signals; NotAsPromised if something is left in the end
    """
    free = shutil.disk_usage(PARENT).free
    if free < NEEDED_BYTES:
        raise NotAsPromised(f"{PARENT} has {free >> 20} MiB free; {NEEDED_BYTES >> 20} are needed")
    with _signals_raise():
        stage = Stage(Path(tempfile.mkdtemp(prefix="clip-demo-", dir=PARENT)))
        try:
            yield stage
        except BaseException as error:
            _end(stage, f"{error}; then ")
            raise
        else:
            _end(stage, "")


def _end(stage: Stage, before: str) -> None:
    for number in _ENDING:  # a second Ctrl-C must not cut the end short; it is bounded
        signal.signal(number, signal.SIG_IGN)
    if left := stage.clear():
        raise NotAsPromised(f"{before}left behind: {', '.join(left)}")


@contextmanager
def _signals_raise() -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(probe: Callable[[], T | None], what: str, *, within_s: float = 20) -> T:
    """What probe answers once it is true; NotAsPromised after within_s."""
    end = time.monotonic() + within_s
    while not (found := probe()):
        if time.monotonic() > end:
            raise NotAsPromised(f"not so after {within_s:.0f} s: {what}")
        time.sleep(0.02)
    return found


def last_words(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:]) or "without a word"


def _pids() -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != os.getpid():
            yield int(entry)


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is not ours to see
        return []


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
