"""Whole connections to the content cache: requests good and bad, pipelined, cut anywhere.

What the server's handler reads, answers and stores is held against h11 alone and a dict, and
against itself with the same bytes cut elsewhere.
"""

import re
import zlib
from collections.abc import Iterable
from functools import cache
from random import Random

from clipfs.tiers.content.replica import content_digest
from tests.fuzz.content_handler import Handler
from tests.fuzz.http_oracle import answers_in, expect_alike, judge, requests_in
from tests.fuzz.judge import Mutate, Outcome, expect_same
from tests.support.content import READ_TOKEN, TOKEN, key_of

PAGE, INDEX, FREE = key_of(1, 0), key_of(1, None), key_of(2, 0)
LAYER = PAGE.partition("/")[0]
OBJECTS = {PAGE: bytes(range(256)) * 3, INDEX: b"an index"}
_TARGETS = [f"/v1/objects/{key}" for key in (PAGE, INDEX, FREE, key_of(2, None))]
_TARGETS += [f"/v1/claims/{LAYER}", f"/v1/claims/{INDEX}", "/healthz", "/metrics", "/", "*"]
_TARGETS += [f"/v1/objects/{LAYER}", f"/v1/objects/../{PAGE}", f"http://x/v1/objects/{PAGE}"]
_BODIES = [b"", b"hello", b"an index", OBJECTS[PAGE], b'{"holder":"a"}', b'{"holder":"b"}']
_BODIES += [b'{"holder":"a","progress":{"total_bytes":5}}', b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
_LINES = [
    *("Range: bytes=0-9", "Range: bytes=5-", "Range: bytes=-5", "Range: bytes=900-", "Range: x"),
    *("Range: bytes=0-767", "Range: bytes=0-768", "Range: bytes=3-2", "If-Range: *"),
    *("Connection: close", "Connection: keep-alive", "Expect: 100-continue", "Upgrade: h2c"),
    *("Content-Length: 5", "Content-Length: 0", "Content-Length: 99999999", "Content-Length: -1"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "If-Match: *", "Accept: */*"),
    *(f"Authorization: Bearer {READ_TOKEN}", "Authorization: Basic eA==", "Authorization: x"),
    *("Host: y", "X: y\r\n z", "X : y", "X", f"X: {'y' * 17_000}", "X: \xe9", ": y", "X:"),
    f"Content-Digest: {content_digest(b'hello')}",
    *("\r\n".join(f"X-{n}: y" for n in range(count)) for count in (62, 65)),
]
_REQUEST = re.compile(rb"(?=\b(?:GET|HEAD|PUT|DELETE|POST|OPTIONS) )")


@cache
def handler() -> Handler:
    return Handler(OBJECTS)


def seeds() -> Iterable[bytes]:
    get, put = _made("GET", _TARGETS[0]), _made("PUT", _TARGETS[2], body=b"hello")
    tag = f"If-Match: {handler().etags[INDEX]}"
    claim = _made("PUT", _TARGETS[4], body=b'{"holder":"a"}')
    chunked = _made("PUT", _TARGETS[2], "Transfer-Encoding: chunked")
    return [
        get * 2,
        _made("GET", _TARGETS[0], "Range: bytes=5-20") + _made("HEAD", _TARGETS[0]) + get,
        put + _made("GET", _TARGETS[2]) + put + _made("PUT", _TARGETS[2], body=b"other"),
        _made("PUT", _TARGETS[1], tag, body=b"new") + _made("GET", _TARGETS[1]),
        _made("DELETE", _TARGETS[1], tag) + _made("GET", _TARGETS[1]),
        _made("PUT", _TARGETS[2], "Expect: 100-continue", body=b"hello") + get,
        _made("PUT", _TARGETS[0], "Expect: 100-continue", token=READ_TOKEN, body=b"hello") + get,
        _made("PUT", _TARGETS[2], token="", body=b"hello") + get,
        claim + claim.replace(b'"a"', b'"b"') + claim.replace(b"PUT", b"DELETE", 1),
        chunked + b"5\r\nhello\r\n0\r\n\r\n" + get,
        get + b"rubbish\r\n\r\n",
        _made("GET", "/healthz", token="") + _made("GET", "/metrics", "Connection: close"),
        get[:-2],
        put[:-2],
        b"\x16\x03\x01\x02",
    ]


def run(data: bytes) -> Outcome:
    asked = requests_in(data)
    whole, cut = handler().talk([data]), handler().talk(_cut(data))
    answers = [answers_in(one.sent, asked, len(one.requests)) for one in (whole, cut)]
    for one, answered in zip((whole, cut), answers, strict=True):
        stored = judge(asked, one.requests, answered, OBJECTS)
        expect_same(one.objects, stored, "what is stored")
        expect_same(handler().leftovers(), [], "left behind")
    expect_alike(whole.requests, *answers)
    if not whole.requests:
        return Outcome.STOPPED
    good = any(answer.status < 300 for answer in answers[0][: len(whole.requests)])
    return Outcome.READ if good else Outcome.REFUSED


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    """Requests are put in, taken out, swapped and changed; what follows mostly stays a request."""
    if random.random() < 0.1:
        return blind(data, max_bytes)
    requests = [part for part in _REQUEST.split(data) if part] or [b""]
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(requests))
        match random.randrange(6):
            case 0 | 1:
                requests.insert(at + random.randrange(2), _drawn(random))
            case 2 if len(requests) > 1:
                del requests[at]
            case 3:
                requests[at] = _with_line(requests[at], random.choice(_LINES), random)
            case 4:
                requests[at] = blind(requests[at], len(requests[at]) + 20)
            case _:
                random.shuffle(requests)
    return b"".join(requests)


def _cut(data: bytes) -> list[bytes]:
    """Into pieces that depend on nothing but data: some of one byte, some large."""
    random = Random(zlib.crc32(data))
    pieces, at = [], 0
    while at < len(data):
        size = random.choice((1, 2, 3, 7, 50, 200, 5000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def _drawn(random: Random) -> bytes:
    method = random.choice(("GET", "GET", "GET", "HEAD", "PUT", "PUT", "DELETE", "POST", "OPTIONS"))
    lines = [random.choice(_LINES) for _ in range(random.choice((0, 0, 1, 1, 2)))]
    if random.random() < 0.3:
        lines.append(f"If-Match: {random.choice(list(handler().etags.values()))}")
    token = random.choice((TOKEN, TOKEN, TOKEN, READ_TOKEN, ""))
    has_body = method in ("PUT", "DELETE", "POST") and random.random() < 0.8
    body = random.choice(_BODIES) if has_body else None
    return _made(method, random.choice(_TARGETS), *lines, token=token, body=body)


def _with_line(request: bytes, line: str, random: Random) -> bytes:
    """With one line more in its head, or in another's stead."""
    head, end, rest = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = random.randint(1, len(lines))
    lines[at : at + random.randrange(2)] = [line.encode("latin-1")]
    return b"\r\n".join(lines) + end + rest


def _made(
    method: str, target: str, *lines: str, token: str = TOKEN, body: bytes | None = None
) -> bytes:
    """A request; length and digest of a body are right."""
    fields = [f"{method} {target} HTTP/1.1", "Host: x"]
    fields += [f"Authorization: Bearer {token}"] if token else []
    if body is not None:
        fields += [f"Content-Length: {len(body)}", f"Content-Digest: {content_digest(body)}"]
    return "\r\n".join([*fields, *lines, "", ""]).encode("latin-1") + (body or b"")
