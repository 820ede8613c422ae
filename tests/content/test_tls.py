"""The content cache over TLS: the same answers, its files read again, and wrong files named."""

import http.client
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.support.content import (
    TOKEN,
    ContentServer,
    content_digest,
    failed_start,
    key_of,
    read_answer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.registry import Certificate, make_certificate
from tests.support.wait import wait_for

BIG = bytes(range(256)) * (8 << 12)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("other"))


def options(certificate: Certificate) -> list[str]:
    return ["--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key)]


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate.cert))


def connect(server: ContentServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(server.connect(), server_hostname="127.0.0.1")


def shown(server: ContentServer) -> str:
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=10)


def test_objects_go_both_ways_over_tls(tmp_path: Path, certificate: Certificate) -> None:
    with run_content_server(tmp_path, *options(certificate)) as server:
        client = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=10, context=trusting(certificate)
        )
        path, sent = f"/v1/objects/{key_of(1)}", {"Authorization": f"Bearer {TOKEN}"}
        for method, headers, body, status, found in [
            ("PUT", {"Content-Digest": content_digest(BIG)}, BIG, 201, b""),
            ("GET", {}, None, 200, BIG),
            ("GET", {"Range": "bytes=300000-4999999"}, None, 206, BIG[300_000:5_000_000]),
            ("HEAD", {}, None, 200, b""),
            ("GET", {"Range": "bytes=5-6"}, None, 206, BIG[5:7]),
        ]:
            client.request(method, path, body, {**sent, **headers})
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (status, found)
        client.close()


def test_pipelined_requests_are_answered_in_order_over_tls(
    tmp_path: Path, certificate: Certificate
) -> None:
    put = request("PUT", key_of(1), "Content-Length: 5", body=b"hello")
    gets = [request("GET", key_of(1), f"Range: bytes={n}-{n}") for n in range(5)]
    with (
        run_content_server(tmp_path, *options(certificate)) as server,
        connect(server, trusting(certificate)) as connection,
    ):
        connection.sendall(put + b"".join(gets))
        assert read_answer(connection)[0] == 201
        assert [read_answer(connection)[1] for _ in gets] == [b"h", b"e", b"l", b"l", b"o"]


def test_plain_http_and_old_tls_are_refused(tmp_path: Path, certificate: Certificate) -> None:
    with run_content_server(tmp_path, *options(certificate)) as server:
        with server.connect() as connection:
            connection.sendall(request("GET", key_of(1)))
            connection.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in read_to_end(connection)
        old = trusting(certificate)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError), connect(server, old):
            pass
        connect(server, trusting(certificate)).close()
        assert "this is a bug" not in server.log.read_text()


def test_what_a_client_does_to_its_own_tls_is_no_fault_of_the_server(
    tmp_path: Path, certificate: Certificate
) -> None:
    with run_content_server(tmp_path, *options(certificate)) as server:
        with connect(server, trusting(certificate)) as client:
            client.sendall(request("PUT", key_of(1), f"Content-Length: {len(BIG)}", body=BIG))
            assert read_answer(client)[0] == 201
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(server, ssl.create_default_context())
        with connect(server, trusting(certificate)) as client:  # leaves without a goodbye
            client.sendall(request("GET", key_of(1)))
            assert client.recv(1000)
        with connect(server, trusting(certificate)) as client:
            plain = socket.socket(fileno=client.detach())
        with plain:  # a record that is none
            plain.settimeout(10)
            plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            read_to_end(plain)
        with connect(server, trusting(certificate)) as client:
            client.sendall(request("GET", key_of(1)))
            assert read_answer(client) == (200, BIG)
            client.unwrap().close()
        said = server.log.read_text()
        assert "a request failed" not in said


def test_sighup_reads_the_files_again_and_keeps_the_old_if_they_are_wrong(
    tmp_path: Path, certificate: Certificate, other: Certificate
) -> None:
    mine = Certificate(cert=tmp_path / "cert", key=tmp_path / "key")
    shutil.copy(certificate.cert, mine.cert)
    shutil.copy(certificate.key, mine.key)
    with run_content_server(tmp_path, *options(mine)) as server:
        old = shown(server)
        assert old.split() == certificate.cert.read_text().split()
        with connect(server, trusting(certificate)) as kept:
            shutil.copy(other.cert, mine.cert)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "the TLS files are not used" in server.log.read_text())
            assert shown(server) == old
            shutil.copy(other.key, mine.key)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: shown(server) != old)
            assert shown(server).split() == other.cert.read_text().split()
            kept.sendall(request("GET", key_of(1)))
            assert read_answer(kept)[0] == 404


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        pytest.param("cert", None, "say --tls-key too", id="no key"),
        pytest.param(None, "key", "say --tls-cert too", id="no certificate"),
        pytest.param("none", "key", "--tls-cert none: No such file", id="certificate missing"),
        pytest.param("cert", "none", "--tls-key none: No such file", id="key missing"),
        pytest.param("cert", "other", "--tls-key other: not the key of", id="another's key"),
        pytest.param("junk", "key", "--tls-cert junk: no certificate", id="no PEM"),
        pytest.param("cert", "junk", "--tls-key junk: no key", id="key is no PEM"),
        pytest.param("cert", "locked", "--tls-key locked: no key", id="key has a password"),
    ],
)
def test_wrong_files_are_named(
    cert: str | None,
    key: str | None,
    message: str,
    tmp_path: Path,
    certificate: Certificate,
    other: Certificate,
) -> None:
    (tmp_path / "T").write_text("secret\n")
    (tmp_path / "junk").write_text("no PEM\n")
    shutil.copy(certificate.cert, tmp_path / "cert")
    shutil.copy(certificate.key, tmp_path / "key")
    shutil.copy(other.key, tmp_path / "other")
    lock = ["openssl", "pkey", "-in", "key", "-aes256", "-passout", "pass:x", "-out", "locked"]
    subprocess.run(lock, cwd=tmp_path, check=True)
    files = ["--tls-cert", cert] if cert else []
    files += ["--tls-key", key] if key else []
    words = ["--dir", "objects", "--listen", "127.0.0.1:0", "--token-file", "T"]
    status, said = failed_start(*words, *files, cwd=tmp_path)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "objects").exists()
