"""Heads of HTTP requests: what is read without h11, h11 reads the same; one after another.

What is left to h11 counts as refused where h11 makes a request of it, else as stopped.
"""

from collections.abc import Iterable
from random import Random

import h11

from clipfs.content.head import MAX_HEAD_BYTES, MAX_HEADERS, parse_head
from tests.fuzz.judge import Mutate, Outcome, broken, expect, expect_same

_KEY = b"/v1/objects/sha256_" + b"0" * 64 + b"/000000"
_LINES = [
    *(b"Host: x", b"host: [::1]:80", b"Authorization: Bearer secret", b"Range: bytes=0-131071"),
    *(b"Accept: */*", b"Accept-Encoding: gzip, deflate;q=0.5", b"User-Agent: a/1.0 (b; c)"),
    *(b"Connection: keep-alive", b"Connection: close", b"connection: Keep-Alive, TE"),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"TE: x"),
    *(b"Expect: 100-continue", b"Upgrade: h2c", b"Keep-Alive: timeout=5", b"A:", b"A:b", b"A: b "),
    *(b"A: b\r\n c", b"A : b", b"A: \xc3\xa9", b"A:\tb", b"X" * 300 + b": y", b": x", b"A: b\rc"),
]  # fmt: skip # by what they are about
_FIRST = [
    *(b"GET / HTTP/1.1", b"HEAD " + _KEY + b" HTTP/1.1", b"GET " + _KEY + b" HTTP/1.1"),
    *(b"GET / HTTP/1.0", b"PUT " + _KEY + b" HTTP/1.1", b"get / HTTP/1.1", b"GET  / HTTP/1.1"),
    *(b"GET http://x/y?z#w HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /\x7f HTTP/1.1", b"GET /"),
]  # fmt: skip # as above
_PIECES = [*_LINES, *_FIRST, b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b":",
           b"\x0b", b"\x1c", b"\x85", b"\xa0"]  # fmt: skip # one list


def seeds() -> Iterable[bytes]:
    plain = [_FIRST[2], _LINES[0], *_LINES[2:7]]
    made = [_joined(plain), _joined(plain) * 2, _joined([*plain, b"Content-Length: 5"])]
    made += [_joined([first, _LINES[0]]) for first in _FIRST]
    return [*made, _joined(plain)[:-2], b"", b"\x16\x03\x01\x02"]


def run(data: bytes) -> Outcome:
    found = parse_head(data)
    if found is None:
        return Outcome.REFUSED if isinstance(_by_h11(data)[0], h11.Request) else Outcome.STOPPED
    while found is not None:
        expect(0 < found.end <= min(len(data), MAX_HEAD_BYTES), "an end that is none")
        expect(0 < len(found.headers) <= MAX_HEADERS, "more headers than are taken")
        event, end, rest = _by_h11(data)
        if not isinstance(event, h11.Request):
            broken(f"h11 does not read it: {event!r:.300}")
        ours = (found.method.encode(), found.target.encode(), found.headers)
        theirs = (event.method, event.target, dict(event.headers))
        expect_same(ours, theirs, "read otherwise by h11")
        expect_same(len(event.headers), len(found.headers), "headers, and by h11")
        expect(end, "by h11 it has a body, or is the last one")
        data = data[found.end :]
        expect_same(data, rest, "what follows, and by h11")
        found = parse_head(data)
    return Outcome.READ


def _by_h11(data: bytes) -> tuple[object, bool, bytes]:
    """The first event; whether the request ends with it and another may follow; what follows."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    http.receive_data(data)
    try:
        event = http.next_event()
        is_end = isinstance(event, h11.Request) and isinstance(http.next_event(), h11.EndOfMessage)
    except h11.RemoteProtocolError as error:
        return error, False, b""
    may_follow = http.their_state is h11.DONE and not http.they_are_waiting_for_100_continue
    if is_end and may_follow:
        http.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
        http.send(h11.EndOfMessage())
        may_follow = http.our_state is h11.DONE
    return event, is_end and may_follow, http.trailing_data[0]


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    """Lines are put in, taken out, doubled and broken; the end mostly stays one."""
    if random.random() < 0.15:
        return blind(data, max_bytes)
    lines = data.split(b"\r\n")
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                lines.insert(at, random.choice(_LINES))
            case 1:
                lines.insert(at, random.choice(lines))
            case 2 if len(lines) > 1:
                del lines[at]
            case 3:
                lines[at] = random.choice((*_LINES, *_FIRST))
            case 4:
                cut = random.randint(0, len(lines[at]))
                lines[at] = lines[at][:cut] + random.choice(_PIECES) + lines[at][cut:]
            case _:
                lines[at] = blind(lines[at], 200) if lines[at] else b"A: b"
    made = b"\r\n".join(lines)
    return made if random.random() < 0.3 else made.rstrip(b"\r\n") + b"\r\n\r\n"


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"\r\n".join([*lines, b"", b""])
