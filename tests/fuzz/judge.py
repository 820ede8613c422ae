"""What a target says of one input, and what makes an input a finding."""

import enum
from collections.abc import Callable, Iterable
from random import Random
from typing import NoReturn, Protocol

MAX_MESSAGE = 4_096
"""Characters of an error: it goes into a log line and a gRPC status."""


class Outcome(enum.IntEnum):
    """How far an input came."""

    STOPPED = 0
    """at the first check: a magic number, a checksum, a grammar"""
    REFUSED = 1
    """behind it, by a named error"""
    READ = 2


class Broken(Exception):
    """A result that cannot be: an invariant or an oracle is against it."""


Mutate = Callable[[bytes, int], bytes]
"""libFuzzer's own mutation of some bytes, to at most so many."""


class Target(Protocol):
    """A module of `tests.fuzz.targets`."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with, most of them valid; the same at every call."""

    def run(self, data: bytes) -> Outcome:
        """Broken, or any error but those that clipfs documents, is a finding."""

    def mutate(self, data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
        """Another input, whose checksums and lengths are mostly right."""


def expect(holds: object, what: str) -> None:
    if not holds:
        raise Broken(what)


def expect_same(one: object, other: object, what: str) -> None:
    if one != other:
        raise Broken(f"{what}: {one!r:.400} and {other!r:.400}")


def expect_plain(error: Exception) -> None:
    """An error's text must be one line, short, and printable anywhere."""
    text = str(error)
    expect(text.isprintable() and len(text) <= MAX_MESSAGE, f"an error of odd text: {text!r:.300}")
    try:
        text.encode()
    except UnicodeEncodeError:
        broken(f"an error that is not text: {text!r:.300}")


def broken(what: str) -> NoReturn:
    raise Broken(what)
