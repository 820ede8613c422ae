"""The head of a plain request, read without a state machine: most of what a cache is asked.

A head is plain if there is one way to read it: GET or HEAD, HTTP/1.1, one Host, no header twice,
none of a body or for the connection, not a byte out of place. All others are None, and the caller
hands them to h11 from their first byte. What is read here, h11 would read the same.

Not here: what h11 reads (`clipfs.content.connection`).
Source: RFC 9112, "Message Format"; RFC 9110, "Field Values".
"""

import re
from typing import NamedTuple

MAX_HEAD_BYTES = 16 << 10
MAX_HEADERS = 64

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
_HEAD = re.compile(
    rb"(GET|HEAD) ([!-~]++) HTTP/1\.1\r\n((?:"
    + _TOKEN
    + rb": [!-~]++(?:[ \t]++[!-~]++)*+\r\n)++)\r\n"
)
_NOT_PLAIN = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class Head(NamedTuple):
    """end  where the next request begins"""

    method: str
    target: str
    headers: dict[bytes, bytes]
    end: int


def parse_head(data: bytes) -> Head | None:
    """The plain request that data begins with; None if it is another, or not whole yet."""
    match = _HEAD.match(data, 0, MAX_HEAD_BYTES)
    if match is None:
        return None
    method, target, block = match.groups()
    lines = block.split(b"\r\n")
    lines.pop()
    headers = {}
    for line in lines:
        name, _, value = line.partition(b": ")
        headers[name.lower()] = value
    if len(headers) != len(lines) or len(lines) > MAX_HEADERS or b"host" not in headers:
        return None
    if not _NOT_PLAIN.isdisjoint(headers) and not _keeps_alive(headers):
        return None
    return Head(method.decode("ascii"), target.decode("ascii"), headers, match.end())


def _keeps_alive(headers: dict[bytes, bytes]) -> bool:
    """Whether the one header that is not plain asks for what is done anyway."""
    return headers.get(b"connection") in (b"keep-alive", b"Keep-Alive") and (
        headers.keys() & _NOT_PLAIN == {b"connection"}
    )
