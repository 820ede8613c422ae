"""A network namespace of the test's own, joined to this one by a cable that can be pulled."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
)
_NET = IPv4Network("198.18.0.0/15")
"""For tests of networks: RFC 2544."""


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
    name, subnet = _claimed()
    here, there = f"{name}-h", f"{name}-t"
    ours, theirs = (str(address) for address in subnet.hosts())
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
        subprocess.run(["ip", "link", "delete", here], capture_output=True, check=False)
        _ip("netns", "delete", name)


def _claimed() -> tuple[str, IPv4Network]:
    """A new namespace's name, and the subnet that is its user's as long as it has the name."""
    for number in random.sample(range(_NET.num_addresses // 4), 100):
        try:
            _ip("netns", "add", f"clip-{number}")
        except subprocess.CalledProcessError as error:
            if b"File exists" not in error.stderr:
                raise
        else:
            return f"clip-{number}", IPv4Network((_NET[4 * number], 30))
    raise RuntimeError("no name of a network namespace is free")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
