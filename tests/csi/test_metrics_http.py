"""The port of --metrics: what it answers, to whom, and that nobody can hold it up."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from clipfs import errors
from clipfs.layer.layout import Layout
from csi.metrics import http
from csi.metrics.exposed import Metrics
from csi.metrics.http import MAX_CONNECTIONS, Page, serving
from csi.metrics.options import Address, address_of
from csi.metrics.pages import pages_of
from tests.support.scraped import asked, page

ANY = Address(host="127.0.0.1", port=0)


def broken(_: str) -> Page:
    raise ValueError("planted")


@pytest.fixture
def served() -> Iterator[Address]:
    pages = {"/page": lambda accept: Page(body=accept.encode()), "/broken": broken}
    with serving(ANY, pages) as address:
        yield address


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def connected(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=20)


def ended(one: socket.socket) -> None:
    """Close it once its thread is through with it: its lines are this test's."""
    with one, suppress(OSError):
        one.shutdown(socket.SHUT_WR)
        while one.recv(1 << 16):
            pass


def test_a_page_is_answered_and_nothing_else(served: Address) -> None:
    assert page(str(served), "/page?a=b")[0] == HTTPStatus.OK
    for path in ("/", "/pages", "/../etc/passwd"):
        assert page(str(served), path)[0] == HTTPStatus.NOT_FOUND
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT"):
        with asked(str(served), "/page", method) as answer:
            assert answer.status == HTTPStatus.NOT_IMPLEMENTED


def test_a_page_that_cannot_be_made_is_a_500_and_a_line_and_the_next_is_answered(
    served: Address,
) -> None:
    with capture_logs() as lines:
        assert page(str(served), "/broken") == (HTTPStatus.INTERNAL_SERVER_ERROR, "planted\n")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "a page cannot be made"
    ]
    assert page(str(served), "/page")[0] == HTTPStatus.OK


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"GET /page HTTP/1.1\r\nHost: x\r\n", id="half a head"),
        pytest.param(b"GET /pa", id="half a line"),
    ],
)
def test_slow_clients_hold_nobody_up_and_the_oldest_of_too_many_goes(
    sent: bytes, served: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http._Request, "timeout", 3600)  # they are not through by silence
    slow = [connected(served) for _ in range(MAX_CONNECTIONS)]
    try:
        for one in slow:
            one.sendall(sent)
        for _ in range(3):
            assert page(str(served), "/page")[0] == HTTPStatus.OK
        assert slow[0].recv(100) == b"", "cut off"
        slow[-1].sendall(b"GET /page HTTP/1.0\r\n\r\n" if not sent else b"ge HTTP/1.0\r\n\r\n")
        assert slow[-1].recv(12).startswith(b"HTTP/1.0"), "it had its place still"
    finally:
        for one in slow:
            ended(one)


def test_who_says_nothing_for_too_long_is_cut_off(
    served: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http._Request, "timeout", 0.01)
    with connected(served) as silent:
        assert silent.recv(100) == b""
    with connected(served) as slow:
        slow.sendall(b"GET /page HTTP/1.1\r\n")
        assert slow.recv(100) == b""


def test_a_client_that_goes_away_is_no_line_that_anybody_reads(served: Address) -> None:
    with capture_logs() as lines:
        with connected(served) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.sendall(b"GET /page HTTP/1.1\r\n")
        assert page(str(served), "/page")[0] == HTTPStatus.OK
    assert {line["log_level"] for line in lines} <= {"debug"}


def test_prometheus_may_ask_for_openmetrics(tmp_path: Path) -> None:
    metrics = Metrics(Layout(tmp_path), version="1", cache_bytes=lambda: 5)
    pages = pages_of(metrics.registry, lambda: None)
    found = pages["/metrics"]("application/openmetrics-text; version=1.0.0")
    assert found.content_type.startswith("application/openmetrics-text")
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(found.body.decode())  # type: ignore[no-untyped-call] # theirs
        for sample in family.samples
    }
    assert values["clip_cache_bytes"] == 5


def test_what_the_cache_holds_is_left_out_until_somebody_knows(tmp_path: Path) -> None:
    metrics = Metrics(Layout(tmp_path), version="1", cache_bytes=lambda: None)
    body = pages_of(metrics.registry, lambda: None)["/metrics"]("").body
    assert b"clip_mounts 0.0" in body
    assert b"clip_cache_bytes" not in body


@pytest.mark.parametrize(
    ("text", "client"),
    [
        pytest.param("127.0.0.1:0", "127.0.0.1", id="IPv4"),
        pytest.param("localhost:0", "localhost", id="name"),
        pytest.param(":0", "127.0.0.1", id="all by IPv4"),
        pytest.param("0.0.0.0:0", "127.0.0.1", id="all of IPv4"),
        pytest.param("[::]:0", "::1", id="all by IPv6"),
        pytest.param("[::]:0", "127.0.0.1", id="all of IPv6 are IPv4, too"),
        pytest.param(":0", "::1", id="all are IPv6, too"),
        pytest.param("[::1]:0", "::1", id="IPv6"),
    ],
)
def test_an_address_may_be_written_in_any_way(
    text: str, client: str, request: pytest.FixtureRequest
) -> None:
    if "IPv6" in request.node.callspec.id and not has_ipv6():
        pytest.skip("no IPv6 here")
    with serving(address_of(text), {"/": lambda _: Page(body=b"here")}) as where:
        assert page(str(Address(host=client, port=where.port)), "/") == (HTTPStatus.OK, "here")


@pytest.mark.parametrize(
    "text", ["", "9090", "host", "host:", "host:x", "host:65536", "::1:9090", "[::1]", "[::1:90",
             "http://host:90", ":-1", "host:9²"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"--metrics .*say HOST:PORT"):
        address_of(text)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_where_nobody_can_listen_is_refused(host: str) -> None:
    with (
        pytest.raises(errors.InvalidInput, match=f"--metrics {host}:90: .*name another"),
        serving(Address(host=host, port=90), {}),
    ):
        raise AssertionError("it listens")


def test_a_port_that_is_taken_is_refused(served: Address) -> None:
    with pytest.raises(errors.InvalidInput, match="already in use"), serving(served, {}):
        raise AssertionError("it listens")
