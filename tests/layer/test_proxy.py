"""Layers go through the proxy that the environment names, as documents do."""

import base64
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from clipfs import errors
from clipfs.image.model import BlobSource
from clipfs.image.proxy import proxy_for
from clipfs.image.tls import load_ca_file
from clipfs.layer.passes import PassRequest, run_pass
from tests.layer.passes import ignore, layer_of
from tests.layer.tars import END, member
from tests.support.registry import make_certificate
from tests.support.web import Asked, Reply, run_web

PAYLOAD = member(b"file", b"text" * 1000) + END


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        pytest.param({}, "https://h.io/b", "", id="none"),
        pytest.param({"HTTPS_PROXY": "http://p:1"}, "https://h.io/b", "http://p:1", id="https"),
        pytest.param({"https_proxy": "p:1"}, "https://h.io/b", "http://p:1", id="no-scheme"),
        pytest.param({"HTTP_PROXY": "http://p:1"}, "https://h.io/b", "", id="other-scheme"),
        pytest.param({"ALL_PROXY": "http://p:1"}, "http://h.io/b", "http://p:1", id="all"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "h.io"}, "http://h.io:5/b", "",
                     id="excepted"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "h.io"}, "http://s.h.io/b", "",
                     id="excepted-below"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://h.io/b", "",
                     id="all-excepted"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "h.io, 10.0.0.0/8"},
                     "https://10.1.2.3:5000/b", "", id="network-excepted"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"},
                     "https://11.1.2.3/b", "http://p:1", id="other-network"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"},
                     "http://[fd00::1]:5000/b", "", id="ipv6-network"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "::1"},
                     "http://[::1]:5000/b", "", id="ipv6-address"),
        pytest.param({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/99,h.io/x"},
                     "http://10.0.0.1/b", "http://p:1", id="no-network"),
    ],
)  # fmt: skip  # an environment and its meaning
def test_the_environment_names_the_proxy(
    environment: dict[str, str], url: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


async def pulled(source: BlobSource, path: Path) -> bytes:
    with path.open("wb+") as payload:
        request = PassRequest(
            layer=layer_of(PAYLOAD, PAYLOAD), source=source, payload_fd=payload.fileno()
        )
        await run_pass(request, on_progress=ignore)
        payload.seek(0)
        return payload.read()


async def test_a_plain_registry_is_asked_through_the_proxy(tmp_path: Path) -> None:
    with run_web(lambda _: Reply(body=PAYLOAD)) as proxy:
        source = BlobSource(
            url="http://h.invalid/blob?x=1", headers={}, proxy=f"http://me:p%40ss@{proxy.address}"
        )
        assert await pulled(source, tmp_path / "payload") == PAYLOAD
        assert proxy.paths() == ["http://h.invalid/blob?x=1"]
        login = proxy.asked[0].headers["proxy-authorization"]
        assert base64.b64decode(login.removeprefix("Basic ")) == b"me:p@ss"


async def test_a_registry_with_tls_is_reached_by_a_tunnel(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The proxy sees no header of the registry's, and the registry none of the proxy's."""
    certificate = make_certificate(tmp_path)
    heads: list[bytes] = []

    async def tunnel(client: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive_some(1)
        heads.append(head)
        address = urlsplit(b"//" + head.split()[1])
        assert address.hostname
        assert address.port
        server = await trio.open_tcp_stream(address.hostname.decode(), address.port)
        await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async with client, server, trio.open_nursery() as both:
            both.start_soon(relay, client, server)
            await relay(server, client)
            both.cancel_scope.cancel()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, tunnel, [listener])
    port = listener.socket.getsockname()[1]

    def respond(asked: Asked) -> Reply:
        assert "proxy-authorization" not in asked.headers
        return Reply(body=PAYLOAD)

    with run_web(respond, tls=certificate) as web:
        source = BlobSource(
            url=f"https://{web.address}/blob",
            headers={"Authorization": "Bearer secret"},
            ca_pem=load_ca_file(certificate.cert),
            proxy=f"http://me:word@127.0.0.1:{port}",
        )
        assert await pulled(source, tmp_path / "payload") == PAYLOAD
        assert web.asked[0].headers["authorization"] == "Bearer secret"
    assert heads[0].startswith(b"CONNECT " + web.address.encode())
    assert b"Proxy-Authorization: Basic" in heads[0]
    assert b"secret" not in heads[0]
    nursery.cancel_scope.cancel()


async def relay(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for piece in source:
            await sink.send_all(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either end has heard enough


async def test_a_proxy_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    source = BlobSource(url="http://h.invalid/", headers={}, proxy="socks5://127.0.0.1:1")
    with pytest.raises(errors.RegistryUnavailable, match="a proxy by socks5 is not supported"):
        await pulled(source, tmp_path / "payload")
