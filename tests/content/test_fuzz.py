"""Whatever bytes arrive, the content cache answers or closes, and goes on serving others."""

import json
import socket
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.content import (
    TOKEN,
    ContentServer,
    key_of,
    read_to_end,
    request,
    run_content_server,
)

CLAIM = (
    f"PUT /v1/claims/{key_of(1, None)} HTTP/1.1\r\nHost: x\r\n"
    f'Authorization: Bearer {TOKEN}\r\nContent-Length: 14\r\n\r\n{{"holder":"a"}}'
)
WELL_FORMED = [
    request("GET", key_of(1)),
    request("GET", key_of(1), "Range: bytes=0-9"),
    request("HEAD", key_of(1)),
    request("PUT", key_of(2), "Content-Length: 5", body=b"hello"),
    request("PUT", key_of(3), "Content-Length: 5", "Expect: 100-continue", body=b"hello"),
    request("PUT", key_of(4), "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    request("PUT", key_of(5, None), "Content-Length: 5", 'If-Match: "1-2", *', body=b"hello"),
    request("DELETE", key_of(2), 'If-Match: "1-2"'),
    request("DELETE", key_of(2)),
    CLAIM.encode(),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)
RELEASE = b'{"holder":"a"}'
COUNTS = ("downloaded_bytes", "payload_bytes", "total_bytes", "stored_bytes")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Well-formed requests, pipelined, with a few bytes changed, dropped or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(WELL_FORMED), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        span = draw(st.integers(0, 3))
        data[at : at + span] = draw(st.binary(max_size=5))
        if not data:
            return b""
    return bytes(data)


def test_no_bytes_stop_the_server(tmp_path: Path) -> None:
    @settings(max_examples=150, deadline=None)
    @given(data=damaged() | st.binary(max_size=300), cut=st.integers(0, 300))
    def send(data: bytes, cut: int) -> None:
        with server.connect() as connection, suppress(OSError):  # closed early: as good an answer
            connection.sendall(data[:cut])
            connection.sendall(data[cut:])
            connection.shutdown(socket.SHUT_WR)
            read_to_end(connection)
        assert server.ask("GET", "/healthz").status == 200

    with run_content_server(tmp_path) as server:
        send()
        log = server.log.read_text()
    assert log.count("Store[OK]") >= 2  # not all inputs failed at the request line
    assert "this is a bug" not in log


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=200)
    | JSON.map(json.dumps).map(str.encode)
    | st.fixed_dictionaries(
        {"holder": st.text(max_size=10) | JSON},
        optional={
            "progress": st.dictionaries(st.sampled_from(COUNTS), st.integers() | JSON) | JSON,
            "more": JSON,
        },
    )
    .map(json.dumps)
    .map(str.encode),
    method=st.sampled_from(["PUT", "DELETE"]),
)
def test_whatever_a_claim_says_it_is_answered(
    body: bytes, method: str, server: ContentServer
) -> None:
    answer = server.ask(method, f"/v1/claims/{key_of(7, None)}", body)
    assert answer.status in (201, 204, 400, 409)
    if answer.status in (201, 409):
        claim = json.loads(answer.body)
        assert claim.keys() == {"holder", "progress", "seconds_left"}
        assert claim["progress"].keys() == set(COUNTS)
    elif answer.status == 400:
        assert answer.body.count(b"\n") == 1
    assert server.ask("DELETE", f"/v1/claims/{key_of(7, None)}", RELEASE).status in (204, 409)
