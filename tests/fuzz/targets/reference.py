"""Image references: what is accepted is what distribution's grammar has, and stays what it is."""

import re
from collections.abc import Iterable
from random import Random

from clipfs import errors
from clipfs.image.reference import parse_reference
from tests.fuzz.judge import Mutate, Outcome, expect, expect_plain, expect_same

_HEX = "0123456789abcdef" * 4
_ALPHANUMERIC = "[a-z0-9]+"
_SEPARATOR = "(?:[._]|__|[-]+)"
_PATH = f"{_ALPHANUMERIC}(?:{_SEPARATOR}{_ALPHANUMERIC})*"
_DOMAIN_PART = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
ORACLE = re.compile(
    rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    rf"(?:@[A-Za-z][A-Za-z0-9]*(?:[+.-_][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}})?"
)
"""reference.ReferenceRegexp of distribution, anchored; written down from its comments."""

_FIRST = ("what follows @", "a reference has no scheme", "is not a registry host")
_PIECES = [
    *("a", "library", "Host", "host.io", "localhost", "docker.io", "registry-1.docker.io", "::1"),
    *("/", ":", "@", ".", "_", "__", "-", "[", "]", "//", "://", "sha256:", "sha256:" + _HEX),
    *("5000", "65535", "65536", "0", "00080", "latest", "t" * 128, "a" * 63, "é", "\n", "\0", "٣"),
]


def seeds() -> Iterable[bytes]:
    texts = [
        *("ubuntu", "ubuntu:24.04", "team/app", "docker.io/app", "index.docker.io/a/b"),
        *("localhost:5000/app", "node:5000/a/b:1", "[fd00::1]:80/app", "Host/app", "a..b", "a/"),
        *(f"app@sha256:{_HEX}", f"h.io/a:1@sha256:{_HEX}", "g/a-b__c.d_e--f", "http://a/b", ""),
        *("a:" + "t" * 128, f"a@md5:{_HEX}", "h:99999/a", "x" * 240 + ".io/abc", "-a.io/b"),
    ]
    return [text.encode() for text in texts]


def run(data: bytes) -> Outcome:
    text = data.decode("utf-8", "surrogateescape")  # as an argument on a command line may be
    try:
        reference = parse_reference(text)
    except errors.InvalidInput as error:
        expect_plain(error)
        return Outcome.STOPPED if any(word in str(error) for word in _FIRST) else Outcome.REFUSED
    expect(ORACLE.fullmatch(text), "accepted, though distribution's grammar does not have it")
    again = str(reference)
    expect_same(parse_reference(again), reference, "not read back as itself")
    expect_same(str(parse_reference(again)), again, "written otherwise the second time")
    expect(ORACLE.fullmatch(again), "written as distribution's grammar does not have it")
    expect(again.isascii() and again.isprintable(), "written with odd signs")
    expect(len(reference.registry) + 1 + len(reference.repository) <= 255, "a name too long")
    expect(reference.version, "nothing to ask the registry for")
    return Outcome.READ


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    if random.random() < 0.3:
        return blind(data, max_bytes)
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(text))
        cut = random.choice((0, 0, 1, random.randint(0, 8)))
        text = (
            text[:at] + random.choice(_PIECES) * random.choice((1, 1, 1, 2, 9)) + text[at + cut :]
        )
    return text.encode("utf-8", "surrogateescape")
