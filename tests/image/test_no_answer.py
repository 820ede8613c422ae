"""What is said of a host that never answers, in words that a person can use."""

import socket
from collections.abc import Iterator

import httpx
import pytest
import trio

from clipfs.image.failures import no_answer


@pytest.fixture
def silent() -> Iterator[httpx.URL]:
    """Of a socket that listens and accepts nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        yield httpx.URL(f"http://127.0.0.1:{server.getsockname()[1]}/")


@pytest.fixture
def full(silent: httpx.URL) -> Iterator[httpx.URL]:
    """Of a socket whose queue is full: the kernel drops who would connect, as a firewall does."""
    host, port = silent.host, silent.port
    assert port is not None
    with socket.create_connection((host, port)), socket.create_connection((host, port)):
        yield silent


async def said_of(url: httpx.URL) -> str:
    async with httpx.AsyncClient(timeout=0.1) as client:
        with pytest.raises(httpx.TimeoutException) as caught:
            await client.get(url)
    return str(no_answer("image", url, caught.value))


def test_a_host_that_drops_what_is_sent_timed_out_while_it_was_connected_to(
    full: httpx.URL,
) -> None:
    assert trio.run(said_of, full) == (
        f"image: no answer from 127.0.0.1:{full.port}: connecting timed out; is it up, and can "
        "this node reach it?"
    )


def test_a_host_that_is_silent_timed_out_while_it_was_read_from(silent: httpx.URL) -> None:
    assert "reading timed out" in trio.run(said_of, silent)
