"""Plain heads are read as h11 reads them; every other head is left to h11."""

import h11
import pytest

from clipfs.content.head import MAX_HEAD_BYTES, MAX_HEADERS, parse_head

PLAIN = (
    b"GET /v1/objects/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\nRange: bytes=0-1\r\n\r\n"
)


def test_a_plain_head_is_read_as_h11_reads_it() -> None:
    found = parse_head(PLAIN + b"GET /next")
    http = h11.Connection(h11.SERVER)
    http.receive_data(PLAIN)
    event = http.next_event()
    assert found is not None
    assert isinstance(event, h11.Request)
    assert found.method == event.method.decode()
    assert found.target == event.target.decode()
    assert found.headers == dict(event.headers)
    assert found.end == len(PLAIN)


@pytest.mark.parametrize("end", range(len(PLAIN)))
def test_half_a_head_is_left_to_h11(end: int) -> None:
    assert parse_head(PLAIN[:end]) is None


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Host: x\r\nConnection: keep-alive\r\n", id="keep-alive"),
        pytest.param(b"Host: x\r\nAccept: a, b\tc;q=0.1\r\n", id="blanks inside"),
        pytest.param(b"hOST: x\r\n", id="case"),
    ],
)
def test_what_has_one_reading_is_plain(lines: bytes) -> None:
    assert parse_head(b"HEAD / HTTP/1.1\r\n" + lines + b"\r\n") is not None


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n", id="a method with a body"),
        pytest.param(b"get / HTTP/1.1\r\nHost: x\r\n\r\n", id="a method in lower case"),
        pytest.param(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", id="two blanks"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="a target not ASCII"),
        pytest.param(b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", id="an empty line first"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no header"),
        pytest.param(b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", id="two Hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\n\r\n", id="a header twice"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\n b\r\n\r\n", id="a folded line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA : 1\r\n\r\n", id="a blank before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n", id="an empty value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1 \r\n\r\n", id="a blank after the value"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", id="NUL"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: \xe9\r\n\r\n", id="a byte not ASCII"),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", id="bare CR"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", id="a length"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n", id="Expect"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n", id="Upgrade"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id="close"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nTE: x\r\n\r\n", id="and TE"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", id="long"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\n"
            + b"".join(b"A%d: x\r\n" % number for number in range(MAX_HEADERS))
            + b"\r\n",
            id="many",
        ),
    ],
)
def test_what_is_not_plain_is_left_to_h11(head: bytes) -> None:
    assert parse_head(head) is None
