"""What a conversation with the content cache should have been: h11 reads both sides of it, whole.

The server mixes a parser of its own with h11; this is h11 alone, over all bytes at once, and a
dict for the store.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import h11

from clipfs.content.connection import Request
from clipfs.content.objects import CLAIMS, OBJECTS
from tests.fuzz.judge import Broken, broken, expect, expect_same
from tests.support.content import READ_TOKEN, TOKEN, content_digest

_CONTENT_RANGE = re.compile(rb"bytes (\d+)-(\d+)/(\d+)")
_OF_THE_MOMENT = ("/metrics", "/healthz", CLAIMS)
"""Targets whose answers differ from one moment to the next."""


@dataclass(slots=True)
class Asked:
    """A request as h11 reads it. is_whole: its end is there, too."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes = b""
    is_whole: bool = False


@dataclass(slots=True)
class Answered:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.headers

    @property
    def lasting(self) -> list[tuple[bytes, bytes]]:
        """The headers but for the date, which is of the moment."""
        return [header for header in self.headers if header[0] != b"date"]


def requests_in(data: bytes) -> list[Asked]:
    """What the client has said, until it broke the rules or wanted to close."""
    http = h11.Connection(h11.SERVER)
    http.receive_data(data)
    http.receive_data(b"")
    found: list[Asked] = []
    try:
        while True:
            event = http.next_event()
            if isinstance(event, h11.Request):
                found.append(
                    Asked(event.method.decode(), event.target.decode(), dict(event.headers))
                )
            elif isinstance(event, h11.Data):
                found[-1].body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found[-1].is_whole = True
                http.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
                http.send(h11.EndOfMessage())
                if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                    return found
                http.start_next_cycle()
            else:
                return found
    except h11.RemoteProtocolError:
        return found


def answers_in(data: bytes, asked: Sequence[Asked], seen: int) -> list[Answered]:
    """What the server has said to the first of these requests, and to one that it refused unseen.

    Raises  Broken if it is not an answer each, and nothing else
    """
    found: list[Answered] = []
    methods = [one.method for one in asked[:seen]]
    was_head = asked[seen : seen + 1] and asked[seen].method == "HEAD"
    # of a head that is too large to be read, the method is not known
    for method in [*methods, "HEAD" if was_head and data.endswith(b"\r\n\r\n") else "GET"]:
        if not data:
            break
        expect(not found or not found[-1].closes, "an answer after one that closes")
        try:
            one, data = _next_answer(data, method)
        except h11.RemoteProtocolError as error:
            raise Broken(f"not an answer: {data!r:.300}") from error
        if one is not None:
            found.append(one)
    expect_same(data, b"", "more than the answers")
    return found


def _next_answer(data: bytes, method: str) -> tuple[Answered | None, bytes]:
    """The answer to method that data begins with, and the rest.

    None: all that was said is 100 (Continue), to a client that then broke off.
    """
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    event = http.next_event()
    while isinstance(event, h11.InformationalResponse):
        event = http.next_event()
        if event is h11.NEED_DATA and not http.trailing_data[0]:
            return None, b""
    if not isinstance(event, h11.Response):
        broken(f"not an answer: {data!r:.300}")
    one = Answered(event.status_code, list(event.headers), b"")
    while isinstance(event := http.next_event(), h11.Data):
        one.body += event.data
    expect(isinstance(event, h11.EndOfMessage), f"an answer that is cut off: {one}")
    return one, http.trailing_data[0]


def judge(
    asked: Sequence[Asked],
    seen: Sequence[Request],
    answered: Sequence[Answered],
    objects: dict[str, bytes],
) -> dict[str, bytes]:
    """What should be stored in the end; Broken if requests or answers are not as they must be.

    asked    what h11 reads
    seen     what the server has read; answered  what it said
    objects  what was stored at the beginning
    """
    for theirs, ours in zip(asked, seen, strict=False):
        expect_same(
            (ours.method, ours.target, ours.headers),
            (theirs.method, theirs.target, theirs.headers),
            "a request, and by h11",
        )
    expect(len(seen) <= len(asked), "requests that h11 does not see")
    broke_off = len(seen) > len(answered)
    expect(len(answered) >= len(seen) - 1, "requests without an answer")
    expect(not broke_off or not asked[len(seen) - 1].is_whole, "a whole request has no answer")
    if len(seen) < len(asked):
        expect(answered and answered[-1].closes, "requests are left, and the connection was kept")
    stored = dict(objects)
    for one, answer in zip(asked[: len(seen)], answered, strict=False):
        _judge_one(one, answer, stored)
    for extra in answered[len(seen) :]:
        expect(extra.status >= 400, "an answer to nothing")
    return stored


def _judge_one(one: Asked, answer: Answered, stored: dict[str, bytes]) -> None:
    """stored is changed as the request says."""
    if answer.status >= 400 or one.target in ("/healthz", "/metrics"):
        return
    scheme, _, token = one.headers.get(b"authorization", b"").partition(b" ")
    changes = one.method not in ("GET", "HEAD")
    allowed = (TOKEN.encode(),) if changes else (TOKEN.encode(), READ_TOKEN.encode())
    expect(scheme.lower() == b"bearer" and token.strip() in allowed, "done without a token")
    if not one.target.startswith(OBJECTS):
        return
    key = one.target.removeprefix(OBJECTS)
    match one.method:
        case "GET" | "HEAD":
            expect(key in stored, "an object that is not stored")
            part = _part(answer, len(stored[key]))
            wanted = stored[key][part.start : part.stop] if one.method == "GET" else b""
            expect_same(answer.body, wanted, "the bytes of an object")
        case "PUT":
            expect(one.is_whole, "an object is stored before it is whole")
            promised = content_digest(one.body).encode() in one.headers.get(b"content-digest", b"")
            expect(promised, "an object is stored without its digest")
            may = b"if-match" in one.headers or stored.get(key, one.body) == one.body
            expect(may, "an object is replaced unseen")
            expect_same(answer.status == 201, key not in stored, "a new object")
            stored[key] = one.body
        case "DELETE":
            expect(key in stored and b"if-match" in one.headers, "removed unseen")
            del stored[key]


def _part(answer: Answered, size: int) -> range:
    if answer.status == 200:
        return range(size)
    found = _CONTENT_RANGE.fullmatch(dict(answer.headers)[b"content-range"])
    if found is None:
        broken(f"a range that is none: {answer}")
    first, last, total = map(int, found.groups())
    expect_same(total, size, "the size of an object")
    expect(first <= last < size, "a range outside the object")
    return range(first, last + 1)


def expect_alike(
    seen: Iterable[Request], one: Sequence[Answered], other: Sequence[Answered]
) -> None:
    """Two conversations of the same bytes, cut differently, have the same answers."""
    for request, a, b in zip_longest([*seen, None], one, other):
        if a is None or b is None:
            expect(a is None and b is None, "an answer more where it is cut otherwise")
            continue
        if request is None:  # a head that is both malformed and too large is the one or the other
            expect(min(a.status, b.status) >= 400, "an answer to nothing")
            continue
        passing = request.target.startswith(_OF_THE_MOMENT) or a.status >= 400
        ours, theirs = ((x.status, None if passing else (x.lasting, x.body)) for x in (a, b))
        expect_same(ours, theirs, "it matters how it is cut")
