"""Where the client goes, and what it takes along: redirects, token servers, credentials."""

import json
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.http import MAX_REDIRECTS, Wire
from clipfs.image.manifest import MAX_DOCUMENT_BYTES
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from clipfs.image.retry import ONCE
from tests.image import documents as d
from tests.image.pulls import (
    BABBLE,
    CONFIG,
    MANIFEST,
    failure,
    place_of_blob,
    resolve,
    shelf,
)
from tests.support.registry import make_certificate
from tests.support.web import Asked, Reply, run_web

BASIC = {"WWW-Authenticate": 'Basic realm="r"'}


@pytest.mark.parametrize(
    ("named", "host", "scheme"),
    [
        pytest.param("h.io", "h.io", "http", id="host"),
        pytest.param("h.io", "h.io:5000", "http", id="host-for-every-port"),
        pytest.param("h.io:5000", "h.io:5000", "http", id="port"),
        pytest.param("h.io:5000", "h.io:5001", "https", id="other-port"),
        pytest.param("h.io:5000", "h.io", "https", id="no-port"),
        pytest.param("h.io:80", "h.io", "http", id="plain-port"),
        pytest.param("H.io:5000", "h.IO:5000", "http", id="capitals"),
        pytest.param("[::1]:5000", "[::1]:5000", "http", id="ipv6"),
        pytest.param("h.io", "h.io.evil", "https", id="longer"),
        pytest.param("h.io", "sub.h.io", "https", id="subdomain"),
    ],
)
async def test_only_hosts_that_are_named_are_spoken_to_without_tls(
    named: str, host: str, scheme: str
) -> None:
    async with Wire.open(plain_http=frozenset([named]), retry=ONCE) as wire:
        assert wire.url(host, "/v2/").scheme == scheme


async def test_docker_io_is_asked_at_its_registry_s_own_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen by a proxy, which is how the test gets in between."""
    host = "registry-1.docker.io"
    with run_web(lambda _: Reply(404)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "")
        async with Registry.open(
            config=RegistryConfig.empty(), plain_http=frozenset([host])
        ) as registry:
            with pytest.raises(errors.ImageNotFound, match=r"docker\.io/library/app:1"):
                await registry.resolve(parse_reference("app:1"), Platform("linux", "amd64"))
        assert proxy.paths() == [f"http://{host}/v2/library/app/manifests/1"]


@pytest.mark.parametrize("excepted", ["127.0.0.0/8", "127.0.0.1"])
async def test_networks_and_hosts_that_the_environment_excepts_are_asked_without_the_proxy(
    excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with run_web(lambda _: Reply(404)) as proxy, run_web(shelf()) as web:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", f"registry.example,{excepted}")
        assert (await resolve(web)).digest == d.digest(MANIFEST)
    assert proxy.asked == []


def redirect(location: str, status: int = 307) -> Reply:
    return Reply(status, headers={"Location": location} if location else {})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_documents_are_followed_elsewhere_without_the_credential(status: int) -> None:
    with run_web(shelf()) as store:

        def respond(asked: Asked) -> Reply:
            if "authorization" not in asked.headers:
                return Reply(401, headers=BASIC)
            return redirect(f"http://{store.address}{asked.path}", status)

        with run_web(respond) as web:
            assert (await resolve(web, login=True)).digest == d.digest(MANIFEST)
    assert len(store.asked) == 2
    assert not any("authorization" in one.headers for one in store.asked)


async def test_a_blob_s_place_is_the_store_s_without_the_credential() -> None:
    with run_web(lambda _: Reply(206, body=b"l")) as store:

        def respond(asked: Asked) -> Reply:
            if "authorization" not in asked.headers:
                return Reply(401, headers=BASIC)
            return redirect(f"http://{store.address}/signed?key=1")

        with run_web(respond) as web:
            source = await place_of_blob(web, login=True)
    assert "key=1" not in repr(source)
    assert (source.url, source.headers) == (f"http://{store.address}/signed?key=1", {})
    assert [one.headers.get("authorization") for one in store.asked] == [None]
    assert store.asked[0].headers["range"] == "bytes=0-0"


async def test_within_its_own_origin_the_registry_gets_the_credential_again() -> None:
    def respond(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(401, headers=BASIC)
        return Reply(206, body=b"l") if asked.path == "/deep" else redirect("/deep")

    with run_web(respond) as web:
        source = await place_of_blob(web, login=True)
        assert source.url == f"http://{web.address}/deep"
        assert source.headers["Authorization"].startswith("Basic ")
        assert "Basic" not in repr(source)


async def test_a_store_s_own_challenge_is_not_answered() -> None:
    with (
        run_web(lambda _: Reply(401, headers=BASIC)) as store,
        run_web(lambda asked: redirect(f"http://{store.address}{asked.path}")) as web,
        pytest.raises(errors.Unauthenticated),
    ):
        await place_of_blob(web, login=True)
    assert [one.headers.get("authorization") for one in store.asked] == [None]


async def test_a_redirect_out_of_tls_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    with run_web(shelf()) as store:
        away = redirect(f"http://{store.address}/x")
        with run_web(lambda _: away, tls=certificate) as web:
            async with Registry.open(config=RegistryConfig.empty()) as registry:
                with pytest.raises(errors.RegistryUnavailable, match=f"{store.address}, which is"):
                    await registry.resolve(
                        parse_reference(f"{web.address}/app"), Platform("linux", "amd64")
                    )
    assert len(web.asked) == 1
    assert store.asked == []


async def test_plain_http_to_a_server_that_hangs_up_on_it_says_what_to_do(tmp_path: Path) -> None:
    """As python's TLS does, and many a balancer."""
    with run_web(shelf(), tls=make_certificate(tmp_path)) as web:
        with pytest.raises(errors.RegistryUnavailable, match="no answer from") as caught:
            await resolve(web)
        assert f"if it speaks TLS, take {web.address} out of --plain-http" in str(caught.value)


async def test_redirects_without_end_are_given_up() -> None:
    with run_web(lambda asked: redirect(asked.path + "x")) as web:
        with pytest.raises(errors.RegistryUnavailable, match="redirects in a row"):
            await resolve(web)
        assert len(web.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "", "http://[", "http://a:b/", "http://127.0.0.1:99999/", "http://a..b/", "ftp://a/b",
        "http://\x9b/", "file:///etc/passwd", "http://" + "a" * 70_000, "//",
    ],
    ids=ascii,
)  # fmt: skip  # words in a row
async def test_a_redirect_to_nowhere_is_no_answer(location: str) -> None:
    text = await failure(lambda _: redirect(location))
    assert text.startswith("registry_unavailable: ")


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("file:///etc/passwd", "a file address without a host"),
        ("ftp://u:secret@h.io/b?sig=x", "ftp://h.io"),
        ("mailto:me", "nowhere"),
        ("http://u:secret:b/?sig=x", "nowhere"),
        ("", "nowhere"),
    ],
    ids=ascii,
)
async def test_an_odd_redirect_is_told_by_its_kind_and_never_with_its_path(
    location: str, where: str
) -> None:
    text = await failure(lambda _: redirect(location))
    assert f" redirects to {where}, which is not followed; " in text
    assert "is it up" not in text
    assert "secret" not in text
    assert "sig" not in text


def bearer(realm: str) -> Reply:
    return Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


@pytest.mark.parametrize(
    ("realm", "code"),
    [
        ("http://example.invalid/token", "unauthenticated"),
        ("ftp://example.invalid/token", "registry_unavailable"),
        ("/token", "registry_unavailable"),
        ("", "registry_unavailable"),
        ("file:///etc/passwd", "registry_unavailable"),
        ("http://", "registry_unavailable"),
        ("https://[", "registry_unavailable"),
        ("https://a:b/", "registry_unavailable"),
        ("https://\x9b/", "registry_unavailable"),
        ("https://", "registry_unavailable"),
        ("https://a..b/", "registry_unavailable"),
        ("https://127.0.0.1:1/", "registry_unavailable"),
    ],
    ids=ascii,
)
async def test_a_token_server_must_have_tls_and_an_address(realm: str, code: str) -> None:
    assert (await failure(lambda _: bearer(realm), login=True)).startswith(f"{code}: ")


@pytest.mark.parametrize(
    "realm", ["", "/token", "file:///etc/passwd", "https://", "https://a:b/", "ftp://u:secret@h/t"]
)
async def test_a_token_server_without_an_address_is_the_registry_s_fault(realm: str) -> None:
    text = await failure(lambda _: bearer(realm), login=True)
    assert "token server has no address" in text
    assert "WWW-Authenticate must have a realm of https://HOST" in text
    assert "plain-http" not in text
    assert "secret@" not in text


async def test_a_password_is_not_sent_to_a_token_server_without_tls() -> None:
    with run_web(lambda _: Reply(body=b'{"token": "t"}')) as server:
        text = await failure(lambda _: bearer(f"http://{server.address}/token"), login=True)
        assert "does not use https; to trust it, name it with --plain-http" in text
        assert server.asked == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(
            Reply(400, body=b'{"error": "invalid_grant"}'), "unauthenticated", id="invalid-grant"
        ),
        pytest.param(Reply(401), "unauthenticated", id="401"),
        pytest.param(Reply(403), "access_denied", id="403"),
        pytest.param(Reply(404), "registry_unavailable", id="404"),
        pytest.param(Reply(500, body=BABBLE.encode()), "registry_unavailable", id="500"),
        pytest.param(Reply(body=b"<html>"), "registry_unavailable", id="html"),
        pytest.param(Reply(body=b'{"x":' + b"[" * 99_999), "registry_unavailable", id="deep"),
        pytest.param(
            Reply(body=b'{"token": "a\\nX: y"}'), "registry_unavailable", id="header-injection"
        ),
        pytest.param(
            Reply(body=b" " * (MAX_DOCUMENT_BYTES * 2)), "registry_unavailable", id="endless"
        ),
        pytest.param(Reply(body=b'{"token": "refused"}'), "unauthenticated", id="of-no-use"),
    ],
)
async def test_a_broken_token_server_is_told_from_a_missing_image(reply: Reply, code: str) -> None:
    def respond(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            return reply
        return bearer(f"http://{asked.headers['host']}/token")

    assert (await failure(respond, login=True)).startswith(f"{code}: ")


async def test_a_token_that_is_spent_is_replaced_once() -> None:
    good = shelf()
    tokens: list[str] = []

    def respond(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            tokens.append(f"t{len(tokens)}")
            return Reply(body=json.dumps({"token": tokens[-1]}).encode())
        spent = asked.path.endswith(d.digest(CONFIG)) and len(tokens) == 1
        if spent or asked.headers.get("authorization") != f"Bearer t{len(tokens) - 1}":
            return bearer(f"http://{asked.headers['host']}/token")
        return good(asked)

    with run_web(respond) as web:
        assert (await resolve(web)).digest == d.digest(MANIFEST)
    assert tokens == ["t0", "t1"]
