"""One node for end-to-end tests: the installed `clipfs` with a root of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.content import run_content_server
from tests.support.machine import CLIPFS
from tests.support.wait import wait_for

ROOM = ("--min-free", "0")
"""For background fills, which leave a disk alone that is nearly full, as a tester's may be."""


@dataclass(slots=True)
class Node:
    """Runs `clipfs` with the node's options; `close` unmounts what it mounted.

    environment  variables that it has besides the tests' own
    """

    root: Path
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounted: list[Path] = field(default_factory=list)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command's outcome; with check, AssertionError shows what it said."""
        done = subprocess.run(
            [CLIPFS, *words], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def json(self, command: str, *words: str) -> dict[str, Any]:
        mine = ["--root", str(self.root)]
        if command in ("mount", "index", "ls"):
            mine += self.options
        found: dict[str, Any] = json.loads(
            self.run(*command.split(), *words, *mine, "--json").stdout
        )
        return found

    def mount(self, image: str, mountpoint: Path, *words: str) -> dict[str, Any]:
        self.mounted.append(mountpoint)  # first: a test that is stopped meanwhile may have it
        return self.json("mount", image, str(mountpoint), "--log-format", "json",
                         "--log-level", "debug", *words)  # fmt: skip

    def unmount(self, mountpoint: Path) -> None:
        self.json("unmount", str(mountpoint))

    def log(self, pid: int) -> list[dict[str, Any]]:
        """The lines of a server's log."""
        text = (self.root / "run" / "log" / f"{pid}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def close(self) -> None:
        for mountpoint in self.mounted:
            subprocess.run(["umount", "--lazy", str(mountpoint)], capture_output=True, check=False)


@contextmanager
def content_cache(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """A content cache's URL, its token file, and its log (JSON lines)."""
    with run_content_server(folder) as server:
        yield server.url, folder / "token", server.log


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
