"""How the content cache treats its connections: kept, pipelined, broken off, refused."""

import http.client
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from clipfs.content.worker import MAX_CONNECTIONS
from tests.support.content import (
    READ_TOKEN,
    TOKEN,
    ContentServer,
    key_of,
    read_answer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.wait import wait_for

PAGE = bytes(1 << 20)
REFUSED = "clip_content_cache_refused_connections_total "


def test_a_connection_serves_request_after_request(
    server: ContentServer, fresh_key: Callable[[], str]
) -> None:
    key, none = fresh_key(), fresh_key()
    with server.connect() as connection:
        for method, wanted, lines, body, status in [
            ("PUT", key, ("Content-Length: 5",), b"hello", 201),
            ("GET", key, (), b"", 200),
            ("GET", none, (), b"", 404),
            ("GET", key, ("Range: bytes=1-2",), b"", 206),
            ("GET", key, ("Range: bytes=9-",), b"", 416),
            ("PUT", key, ("Content-Length: 5",), b"other", 409),
            ("PUT", key, ("Content-Length: 5",), b"hello", 200),
            ("GET", key, (), b"", 200),
        ]:
            connection.sendall(request(method, wanted, *lines, body=body))
            assert read_answer(connection)[0] == status


def test_pipelined_requests_are_answered_in_their_order(server: ContentServer, key: str) -> None:
    server.ask("PUT", key, b"0123456789")
    wanted = [(first, last) for first in range(5) for last in range(first, 10)]
    with server.connect() as connection:
        connection.sendall(
            b"".join(request("GET", key, f"Range: bytes={a}-{b}") for a, b in wanted)
        )
        for a, b in wanted:
            assert read_answer(connection) == (206, b"0123456789"[a : b + 1])


def test_a_put_and_a_get_may_come_in_one_packet(server: ContentServer, key: str) -> None:
    put = request("PUT", key, "Content-Length: 5", body=b"hello")
    with server.connect() as connection:
        connection.sendall(put + request("GET", key))
        assert read_answer(connection)[0] == 201
        assert read_answer(connection) == (200, b"hello")


def test_a_client_that_asks_first_sends_its_body_when_told_to(
    server: ContentServer, key: str
) -> None:
    with server.connect() as connection:
        connection.sendall(
            request("PUT", key, "Content-Length: 5", "Expect: 100-continue", whole=b"hello")
        )
        assert read_answer(connection) == (100, b"")
        connection.sendall(b"hello")
        assert read_answer(connection)[0] == 201


def test_a_client_that_asks_first_is_spared_a_body_that_is_refused(
    server: ContentServer, key: str
) -> None:
    with server.connect() as connection:
        lines = ("Content-Length: 8000000", "Expect: 100-continue")
        connection.sendall(request("PUT", key, *lines, token=READ_TOKEN))
        assert read_answer(connection)[0] == 403
        assert connection.recv(1) == b""


def test_a_client_that_sends_a_refused_body_still_sees_the_answer(
    server: ContentServer, key: str
) -> None:
    body = bytes(8 << 20)
    with server.connect() as connection:
        head = request("PUT", key, f"Content-Length: {len(body)}", token=READ_TOKEN)
        connection.sendall(head + body)
        assert read_answer(connection)[0] == 403
        assert connection.recv(1) == b""


@pytest.mark.parametrize("sent", [0, 1, 70_000, len(PAGE) - 1])
def test_an_upload_that_breaks_off_leaves_nothing(
    sent: int, server: ContentServer, key: str
) -> None:
    with server.connect() as connection:
        server.begin_upload(connection, key, PAGE[:sent], PAGE)
    wait_for(lambda: not list(server.incoming.iterdir()))
    assert server.ask("GET", key).status == 404


def test_an_upload_is_invisible_until_it_is_whole(server: ContentServer, key: str) -> None:
    with server.connect() as connection:
        server.begin_upload(connection, key, b"hell", b"hello")
        assert server.ask("GET", key).status == 404
        connection.sendall(b"o")
        assert read_answer(connection)[0] == 201
    assert server.ask("GET", key).body == b"hello"


def test_a_client_that_leaves_in_the_middle_of_a_body_harms_no_other(
    server: ContentServer, key: str
) -> None:
    server.ask("PUT", key, bytes(8 << 20))
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(request("GET", key))
            assert connection.recv(100)
    assert server.ask("GET", key, headers={"Range": "bytes=0-9"}).body == bytes(10)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"GET\r\n\r\n", id="half a request line"),
        pytest.param(b"GET / HTTP/1.1\r\nbad header\r\n\r\n", id="no header"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000, id="a long head"),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
            id="a long head that ends",
        ),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
            + b"".join(b"X%d: x\r\n" % n for n in range(100))
            + b"\r\n",
            id="many headers",
        ),
    ],
)
def test_what_is_not_http_is_refused_and_closed(data: bytes, server: ContentServer) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = read_to_end(connection)
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    assert server.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("line", ["Authorization : Bearer {}", "Authorization: Bearer {}\0"])
def test_a_refusal_repeats_nothing_of_the_request(line: str, server: ContentServer) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\n{line.format(TOKEN)}\r\n\r\n".encode())
        assert read_answer(connection) == (400, b"illegal header line\n")
    with server.connect() as connection:
        connection.sendall(f"GET /{TOKEN} {'x' * 5000}\r\n\r\n".encode())
        assert read_answer(connection) == (400, b"illegal request line\n")


HEAD = b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("refused", "has_words"),
    [
        pytest.param(b"rubbish\r\n\r\n", True, id="after a HEAD, no request"),
        pytest.param(HEAD + b"".join(b"X%d: x\r\n" % n for n in range(100)) + b"\r\n", False,
                     id="a HEAD with too many headers"),
    ],
)  # fmt: skip # one a line
def test_a_refusal_has_words_unless_it_answers_a_head(
    refused: bytes, has_words: bool, server: ContentServer
) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD + b"\r\n" + refused)
        said = read_to_end(connection)
    first, answer, words = said.split(b"\r\n\r\n")
    assert first.split()[1] == b"200"
    assert answer.split()[1] in (b"400", b"431")
    assert bool(words) == has_words


def test_plain_requests_and_others_are_answered_in_their_order(
    server: ContentServer, key: str
) -> None:
    """Some are read by h11, some are not; all come in one packet, cut anywhere."""
    server.ask("PUT", key, b"0123456789")
    sent = b""
    for number in range(5):
        sent += request("GET", key, f"Range: bytes={number}-{number}")
        sent += request("GET", key, f"Range: bytes={number}-9", "Expect: none", "Keep-Alive: x")
        sent += request("PUT", key, "Content-Length: 10", body=b"0123456789")
    for cut in range(0, len(sent), 97):
        with server.connect() as connection:
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            for number in range(5):
                assert read_answer(connection) == (206, b"%d" % number)
                assert read_answer(connection) == (206, b"0123456789"[number:])
                assert read_answer(connection)[0] == 200


@contextmanager
def many_connections() -> Iterator[None]:
    """A limit on open files that more than a worker's connections fit in, servers' included."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + 500
    if before[1] != resource.RLIM_INFINITY and before[1] < wanted:
        pytest.skip(f"needs {wanted} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[ContentServer, list[socket.socket]]]:
    """A server of one worker, and as many connections as it takes."""
    with (
        many_connections(),
        run_content_server(tmp_path, "--workers", "1") as server,
        ExitStack() as stack,
    ):
        yield server, [stack.enter_context(server.connect()) for _ in range(MAX_CONNECTIONS)]


def is_answered(connection: socket.socket) -> bool:
    connection.sendall(request("GET", key_of(1)))
    return read_answer(connection)[0] == 404


def refused(server: ContentServer) -> int:
    found = server.ask("GET", "/metrics", token=None).body.decode()
    (line,) = (one for one in found.splitlines() if one.startswith(REFUSED))
    return int(float(line.split()[1]))


def test_a_connection_too_many_takes_the_place_of_one_without_a_request(
    full: tuple[ContentServer, list[socket.socket]],
) -> None:
    server, kept = full
    assert is_answered(kept[0])
    kept[1].sendall(b"GET /slo")
    assert is_answered(kept[-1])
    with server.connect() as one, server.connect() as other:
        assert all(is_answered(connection) for connection in (one, other, kept[0], kept[-1]))
        closed = [kept[number].recv(1) for number in (1, 2)]
        assert closed == [b"", b""], "a head that does not end, and who was idle for longest"
        assert is_answered(kept[4])
    assert refused(server) == 0


def test_a_connection_too_many_is_closed_where_all_have_requests(
    full: tuple[ContentServer, list[socket.socket]],
) -> None:
    server, kept = full
    keys = [key_of(number) for number in range(MAX_CONNECTIONS)]
    for connection, key in zip(kept, keys, strict=True):
        connection.sendall(request("PUT", key, "Content-Length: 2", body=b"1", whole=b"12"))
    wait_for(lambda: len(list(server.incoming.iterdir())) == MAX_CONNECTIONS, within_s=60)
    with server.connect() as too_many:
        assert too_many.recv(1) == b""
    for connection in (kept[0], kept[-1]):
        connection.sendall(b"2")
        assert read_answer(connection)[0] == 201
    kept.pop().close()
    wait_for(lambda: can_ask(server))
    assert refused(server) > 0


def can_ask(server: ContentServer) -> bool:
    with suppress(OSError, http.client.HTTPException):
        return server.ask("GET", "/healthz", token=None).status == 200
    return False
