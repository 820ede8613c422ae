"""The content cache's process: how it starts, ends and comes back."""

import signal
from pathlib import Path

import pytest

from tests.support.content import (
    failed_start,
    key_of,
    read_answer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.wait import wait_for

BIG = bytes(8 << 20)


def test_sigterm_finishes_an_upload_that_is_in_flight(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server, server.connect() as connection:
        server.begin_upload(connection, key_of(1), b"hell", b"hello")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_listening())
        connection.sendall(b"o")
        assert read_answer(connection)[0] == 201
        assert server.process.wait(10) == 0
    assert (server.objects / key_of(1)).read_bytes() == b"hello"


def test_sigterm_finishes_a_download_that_is_in_flight(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server, server.connect() as connection:
        server.ask("PUT", key_of(1), BIG)
        connection.sendall(request("GET", key_of(1)))
        assert connection.recv(1) == b"H"  # the rest waits for us: it is more than buffers hold
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_listening())
        assert read_to_end(connection).endswith(b"\r\n\r\n" + BIG)
        assert server.process.wait(10) == 0


def test_sigterm_does_not_wait_for_connections_that_ask_nothing(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server, server.connect() as fresh:
        with server.connect() as kept:
            kept.sendall(request("GET", key_of(1)))
            assert read_answer(kept)[0] == 404
            server.process.send_signal(signal.SIGTERM)
            assert kept.recv(1) == b""
            assert fresh.recv(1) == b""
        assert server.process.wait(10) == 0


def test_objects_survive_a_kill_and_half_uploads_do_not(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server, server.connect() as connection:
        server.ask("PUT", key_of(1), BIG)
        server.begin_upload(connection, key_of(2), b"half", BIG)
        server.kill()
    assert list(server.incoming.iterdir())  # the kill was met in the middle
    with run_content_server(tmp_path) as server:
        assert list(server.incoming.iterdir()) == []
        assert server.ask("GET", key_of(1)).body == BIG
        assert server.ask("GET", key_of(2)).status == 404
        assert server.ask("PUT", key_of(2), BIG).status == 201


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as first:
        words = ["--dir", "objects", "--listen", "127.0.0.1:0", "--token-file", "token"]
        status, said = failed_start(*words, cwd=first.folder)
        assert (status, "another content cache" in said) == (1, True)
        assert first.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--listen", "x", "--token-file", "T"], "HOST:PORT", id="no port"),
        pytest.param(["--listen", "127.0.0.1:99999", "--token-file", "T"], "HOST:PORT", id="port"),
        pytest.param(["--listen", "192.0.2.1:0", "--token-file", "T"], "192.0.2.1", id="not ours"),
        pytest.param(["--listen", "127.0.0.1:0", "--token-file", "none"], "none", id="no token"),
        pytest.param(["--listen", "127.0.0.1:0", "--token-file", "E"], "empty", id="empty token"),
        pytest.param(
            ["--listen", "127.0.0.1:0", "--token-file", "C"], "control characters", id="odd token"
        ),
        pytest.param(
            ["--listen", "127.0.0.1:0", "--token-file", "T", "--read-token-file", "T"],
            "must differ",
            id="one token for both",
        ),
        pytest.param(
            ["--listen", "127.0.0.1:0", "--token-file", "T", "--dir", "/proc/x"],
            "/proc/x",
            id="folder",
        ),
    ],
)
def test_a_server_that_cannot_start_says_why(
    words: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "T").write_text("secret\n")
    (tmp_path / "E").write_text("\n")
    (tmp_path / "C").write_text("secret\0x\n")
    status, said = failed_start("--dir", "objects", *words, cwd=tmp_path)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert "secret" not in said


def test_what_stands_in_the_place_of_a_file_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "T").write_text("secret\n")
    (tmp_path / "objects/id").mkdir(parents=True)
    words = ["--dir", "objects", "--listen", "127.0.0.1:0", "--token-file", "T"]
    status, said = failed_start(*words, cwd=tmp_path)
    assert (status, "objects/id: Is a directory" in said) == (1, True)


def test_a_limit_that_is_no_number_of_bytes_is_a_usage_error(tmp_path: Path) -> None:
    words = ["--dir", "objects", "--listen", "127.0.0.1:0", "--token-file", "T"]
    status, said = failed_start(*words, "--max-bytes", "10 GB", cwd=tmp_path)
    assert (status, "512Mi, 20Gi" in said) == (2, True)
    assert not (tmp_path / "objects").exists()


@pytest.mark.parametrize(
    ("limit", "warned"),
    [
        pytest.param("200", True, id="GiB forgotten"),
        pytest.param("0", True, id="nothing"),
        pytest.param("8Mi", False, id="a page"),
    ],
)
def test_a_limit_that_keeps_not_even_a_page_is_warned_of(
    limit: str, warned: bool, tmp_path: Path
) -> None:
    with run_content_server(tmp_path, "--max-bytes", limit) as server:
        assert ("is less than one page" in server.log.read_text()) is warned
