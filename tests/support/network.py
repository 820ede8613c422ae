"""A network namespace of the test's own, joined to this one by a cable that can be pulled."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import pytest

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
)
_NUMBERS = count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """host: its address, as seen from here. within: words before a command that runs in it."""

    name: str
    host: str
    cable: str

    @property
    def within(self) -> Sequence[str]:
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Nothing passes, and nobody is told: what was connected stays so, silent."""
        _ip("-n", self.name, "link", "set", self.cable, "down")

    def mend(self) -> None:
        _ip("-n", self.name, "link", "set", self.cable, "up")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """It goes with the block, and so does what still runs in it lose its network."""
    number = next(_NUMBERS)
    name = f"clip-{os.getpid()}-{number}"
    here, there = f"ch{os.getpid()}.{number}", f"ct{os.getpid()}.{number}"
    net = f"198.18.{os.getpid() % 256}.{4 * (number % 64)}".rpartition(".")  # for tests: RFC 2544
    ours, theirs = (f"{net[0]}.{int(net[2]) + last}" for last in (1, 2))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _ip("address", "add", f"{ours}/30", "dev", here)
        _ip("link", "set", here, "up")
        for words in (
            ("address", "add", f"{theirs}/30", "dev", there),
            ("link", "set", there, "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *words)
        yield Namespace(name=name, host=theirs, cable=there)
    finally:
        _ip("netns", "delete", name)
        subprocess.run(["ip", "link", "delete", here], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
