"""Several worker processes on one port: one that dies, and the parent's own end."""

import os
import signal
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.support.content import (
    ContentServer,
    has_ended,
    key_of,
    read_answer,
    request,
    run_content_server,
)
from tests.support.wait import wait_for

TWO = ("--workers", "2")


def owner_of(server: ContentServer, port: int) -> int:
    """The worker that has the server's side of a connection from port."""
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {line[9] for line in lines if line[2].endswith(wanted) and line[9] != "0"}
    for pid in server.workers():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if fd.is_symlink() and os.readlink(fd).removeprefix("socket:[")[:-1] in inodes:
                return pid
    return 0


def test_the_workers_share_the_connections(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        connections: list[socket.socket] = []
        owners: Counter[int] = Counter()

        def are_shared() -> bool:
            """A worker that is not scheduled for a while takes none meanwhile."""
            connections.append(server.connect())
            connections[-1].sendall(request("GET", key_of(1)))
            assert read_answer(connections[-1])[0] == 404
            owners[owner_of(server, connections[-1].getsockname()[1])] += 1
            return len(owners) == 2 and min(owners.values()) >= 2

        try:
            wait_for(are_shared)
        finally:
            for connection in connections:
                connection.close()


def test_what_one_worker_stored_another_serves(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        assert server.ask("PUT", key_of(1), b"hello").status == 201
        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            connection.sendall(request("GET", key_of(1), "Range: bytes=1-2"))
            assert read_answer(connection) == (206, b"el")
            connection.close()


def test_a_worker_that_dies_is_replaced_and_said(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        server.ask("PUT", key_of(1), b"hello")
        before = set(server.workers())
        victim = min(before)
        with server.connect() as connection:
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(set(server.workers()) - {victim}) == 2)
            connection.sendall(request("GET", key_of(1)))
            with suppress(ConnectionError):  # the victim's connections are lost with it
                assert read_answer(connection) == (200, b"hello")
        for _ in range(4):
            assert server.ask("GET", key_of(1)).body == b"hello"
        assert "a worker died and is replaced" in server.log.read_text()
        assert "clip_content_cache_worker_restarts_total 1.0" in metrics(server)


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        workers = server.workers()
        assert len(workers) == 2
        server.process.kill()
        wait_for(lambda: all(has_ended(pid) for pid in workers))


def test_a_signal_to_all_processes_at_once_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """As a terminal or a shell sends it: the workers get it twice."""
    with run_content_server(tmp_path, *TWO) as server, server.connect() as connection:
        server.begin_upload(connection, key_of(1), b"hell", b"hello")
        for pid in (server.process.pid, *server.workers()):
            with suppress(ProcessLookupError):  # it had nothing to finish
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
        wait_for(lambda: not server.is_listening())
        connection.sendall(b"o")
        assert read_answer(connection)[0] == 201
        assert server.process.wait(10) == 0


def test_metrics_are_summed_over_the_workers_and_need_no_token(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        server.ask("PUT", key_of(1), b"hello")
        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            for key, lines in [
                (key_of(1), ()),
                (key_of(1), ("Range: bytes=0-1",)),
                (key_of(2), ()),
            ]:
                connection.sendall(request("GET", key, *lines))
                read_answer(connection)
        found = metrics(server)
        for connection in connections:
            connection.close()
    for line in [
        'clip_content_cache_requests_total{method="GET",status="2xx"} 8.0',
        'clip_content_cache_requests_total{method="GET",status="4xx"} 4.0',
        'clip_content_cache_requests_total{method="PUT",status="2xx"} 1.0',
        'clip_content_cache_lookups_total{result="found"} 8.0',
        'clip_content_cache_lookups_total{result="missed"} 4.0',
        "clip_content_cache_connections_total 6.0",
        "clip_content_cache_open_connections 5.0",
    ]:
        assert line in found.splitlines()


def test_bytes_of_payloads_are_counted_apart_from_heads_and_indexes(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *TWO) as server:
        server.ask("PUT", key_of(1), b"hello")
        server.ask("PUT", key_of(1, None), b"an index")
        server.ask("HEAD", key_of(1))
        for key, *lines in [
            (key_of(1),),
            (key_of(1), "Range: bytes=1-3"),
            (key_of(1), "Range: bytes=9-"),
            (key_of(1, None),),
            (key_of(1, None), "Range: bytes=0-1"),
            (key_of(2),),
        ]:
            with server.connect() as connection:
                connection.sendall(request("GET", key, *lines))
                read_answer(connection)
        line = f"clip_content_cache_sent_page_bytes_total {5 + 3}.0"
        wait_for(lambda: line in metrics(server).splitlines())


def metrics(server: ContentServer) -> str:
    answer = server.ask("GET", "/metrics", token=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.body.decode()
