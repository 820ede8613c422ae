"""Ranges out of files that are still open: the same answers, and never an object that is gone."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.content import (
    READ_TOKEN,
    ContentServer,
    key_of,
    read_answer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.wait import wait_for

PAGE = bytes(range(256)) * 32
RANGE = "Range: bytes=256-511"


def raw_answer(server: ContentServer, *lines: str, key: str) -> tuple[bytes, bytes]:
    """The lines of its head but for its date, sorted; and its body."""
    with server.connect() as connection:
        connection.sendall(request("GET", key, *lines))
        connection.shutdown(socket.SHUT_WR)
        answer = read_to_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    lasting = [line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")]
    return b"\n".join(sorted(lasting)), body


def test_the_answer_is_the_one_that_objects_would_give(server: ContentServer, key: str) -> None:
    server.ask("PUT", key, PAGE)
    etag = server.ask("HEAD", key).headers["etag"]
    hot = raw_answer(server, RANGE, key=key)
    general = raw_answer(server, RANGE, f"If-Range: {etag}", key=key)
    assert hot[1] == general[1] == PAGE[256:512]
    assert hot[0] == general[0]


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        pytest.param("Range: bytes=0-0", 206, PAGE[:1], id="first"),
        pytest.param(f"Range: bytes=0-{len(PAGE) - 1}", 206, PAGE, id="all"),
        pytest.param(f"Range: bytes=8000-{len(PAGE)}", 206, PAGE[8000:], id="beyond the end"),
        pytest.param(f"Range: bytes={len(PAGE)}-9999", 416, b"no such range\n", id="behind"),
        pytest.param("Range: bytes=5-4", 200, PAGE, id="no range"),
        pytest.param("Range: bytes=5-", 206, PAGE[5:], id="open"),
        pytest.param("Range: bytes=-5", 206, PAGE[-5:], id="last"),
    ],
)
def test_ranges_of_every_form_out_of_a_hot_object(
    line: str, status: int, body: bytes, server: ContentServer, key: str
) -> None:
    server.ask("PUT", key, PAGE)
    with server.connect() as connection:
        for sent in (RANGE, line, RANGE, line):
            connection.sendall(request("GET", key, sent))
            expected = (206, PAGE[256:512]) if sent == RANGE else (status, body)
            assert read_answer(connection) == expected


def test_a_hot_object_still_needs_a_token(server: ContentServer, key: str) -> None:
    server.ask("PUT", key, PAGE)
    with server.connect() as connection:
        for token, status in (("secret", 206), ("wrong", 401), (READ_TOKEN, 206), ("", 401)):
            connection.sendall(request("GET", key, RANGE, token=token))
            assert read_answer(connection)[0] == status


def test_a_hot_object_that_another_worker_replaced_is_never_served_again(
    tmp_path: Path,
) -> None:
    """The file is exchanged beneath; any change that is answered makes all workers look again."""
    with run_content_server(tmp_path, "--workers", "2") as server:
        server.ask("PUT", key_of(1), PAGE)
        connections = [server.connect() for _ in range(6)]  # both workers have some
        for number in range(20):
            for connection in connections:
                connection.sendall(request("GET", key_of(1), "Range: bytes=0-0"))
                assert read_answer(connection)[0] == 206
            (server.objects / key_of(1)).unlink()
            marker = bytes([number]) * 300
            assert server.ask("PUT", key_of(1), marker).status == 201
            for connection in connections:
                connection.sendall(request("GET", key_of(1), "Range: bytes=0-299"))
                assert read_answer(connection) == (206, marker)
        for connection in connections:
            connection.close()


def open_files(pid: int) -> Iterator[str]:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed meanwhile
            yield str(fd.readlink())


def test_files_are_let_go_once_nobody_reads_them(tmp_path: Path) -> None:
    with run_content_server(tmp_path, "--workers", "1") as server:
        for number in range(20):
            server.ask("PUT", key_of(number), PAGE)
        with server.connect() as connection:
            for number in range(20):
                connection.sendall(request("GET", key_of(number), RANGE))
                assert read_answer(connection)[0] == 206
            (worker,) = server.workers()
            mine = str(server.objects)
            wait_for(lambda: not any(one.startswith(mine) for one in open_files(worker)))
