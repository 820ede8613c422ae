"""The client against registries that lie, babble and stall.

Each is a real server on loopback; whatever it says, the outcome is an image that fits its
digests or one clear, short, printable error of the right kind.
"""

import base64
import contextlib
import gzip
import json
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from clipfs import errors
from clipfs.image.manifest import MAX_DOCUMENT_BYTES
from clipfs.image.registry import MAX_INDEX_DEPTH
from tests.image import documents as d
from tests.image.pulls import (
    BABBLE,
    BLOB,
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    PASSWORD,
    failure,
    place_of_blob,
    resolve,
    shelf,
)
from tests.support.web import Asked, Reply, WebServer, run_web


async def test_the_good_image_that_the_others_are_made_from_is_good() -> None:
    with run_web(shelf()) as web:
        for version in (":1", ":all", f"@{d.digest(MANIFEST)}", f":1@{d.digest(INDEX)}"):
            assert (await resolve(web, version)).digest == d.digest(MANIFEST)


@pytest.mark.parametrize(
    ("version", "path"),
    [
        pytest.param(f"@{d.digest(MANIFEST)}", f"manifests/{d.digest(MANIFEST)}", id="manifest"),
        pytest.param(f"@{d.digest(INDEX)}", f"manifests/{d.digest(INDEX)}", id="index"),
        pytest.param(":all", f"manifests/{d.digest(MANIFEST)}", id="manifest-of-an-index"),
        pytest.param(":1", f"blobs/{d.digest(CONFIG)}", id="config"),
    ],
)
async def test_bytes_that_are_not_what_their_digest_names_are_corrupt(
    version: str, path: str
) -> None:
    bad = shelf()
    good = bad.replies[f"/v2/app/{path}"]
    wrong = Reply(headers=good.headers, body=good.body.replace(b"{", b"{ ", 1))
    bad.replies[f"/v2/app/{path}"] = wrong
    assert "corrupt_image" in await failure(bad, version)


async def test_a_tag_s_bytes_must_fit_the_digest_that_comes_with_them() -> None:
    bad = shelf()
    bad.manifest(MANIFEST, d.OCI_MANIFEST, "1", **{"Docker-Content-Digest": d.digest(b"other")})
    assert "corrupt_image" in await failure(bad)


async def test_a_digest_header_does_not_vouch_for_other_bytes() -> None:
    bad = shelf()
    asked = d.digest(MANIFEST)
    bad.manifest(INDEX, d.OCI_INDEX, asked, **{"Docker-Content-Digest": asked})
    assert "corrupt_image" in await failure(bad, f"@{asked}")


async def test_a_size_that_is_not_the_document_s_is_corrupt() -> None:
    bad = shelf()
    lie = d.described(CONFIG, d.OCI_CONFIG, size=len(CONFIG) + 1)
    bad.manifest(d.manifest(lie, LAYER), d.OCI_MANIFEST, "1")
    assert f"has {len(CONFIG)} bytes, its parent says" in await failure(bad)


async def test_a_document_over_the_limit_is_given_up() -> None:
    bad = shelf()
    bad.manifest(b" " * MAX_DOCUMENT_BYTES + MANIFEST, d.OCI_MANIFEST, "1")
    text = await failure(bad)
    assert text.startswith("corrupt_image: ")
    assert f"a document over {MAX_DOCUMENT_BYTES} bytes" in text


async def test_a_coded_document_is_not_unfolded() -> None:
    bad = shelf()
    bomb = gzip.compress(b" " * (64 << 20) + MANIFEST)
    bad.manifest(bomb, d.OCI_MANIFEST, "1", **{"Content-Encoding": "gzip"})
    with run_web(bad) as web:
        with pytest.raises(errors.CorruptImage, match="malformed"):
            await resolve(web)
        assert web.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("depth", "refused"), [(MAX_INDEX_DEPTH, False), (MAX_INDEX_DEPTH + 1, True)]
)
async def test_indexes_are_followed_to_a_fixed_depth(depth: int, refused: bool) -> None:
    nested, data, media_type = shelf(), MANIFEST, d.OCI_MANIFEST
    for _ in range(depth):
        data = d.index(d.described(data, media_type, platform=d.AMD64))
        media_type = d.OCI_INDEX
        nested.manifest(data, media_type)
    version = f"@{d.digest(data)}"
    if refused:
        assert "corrupt_image" in await failure(nested, version)
    else:
        with run_web(nested) as web:
            assert (await resolve(web, version)).digest == d.digest(MANIFEST)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (201, "registry_unavailable"),
        (204, "registry_unavailable"),
        (400, "access_denied"),
        (401, "unauthenticated"),
        (402, "access_denied"),
        (403, "access_denied"),
        (404, "image_not_found"),
        (405, "access_denied"),
        (408, "registry_unavailable"),
        (410, "image_not_found"),
        (451, "access_denied"),
        (429, "registry_unavailable"),
        (500, "registry_unavailable"),
        (503, "registry_unavailable"),
    ],
)
async def test_the_status_decides_the_error(status: int, code: str) -> None:
    assert (await failure(lambda _: Reply(status))).startswith(f"{code}: ")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500])
@pytest.mark.parametrize(
    "repeated", ["Basic {}", "{}", "me:{password}", "your {password}, was it?"]
)
async def test_what_a_registry_repeats_of_our_credentials_is_told_to_nobody(
    status: int, repeated: str
) -> None:
    value = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    def repeating(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        words = repeated.format(value, password=PASSWORD)
        return Reply(status, body=json.dumps({"errors": [{"message": words}]}).encode())

    text = await failure(repeating, login=True)
    assert value not in text
    assert PASSWORD not in text


WHAT_IS_MISSING = {
    "manifest": f"/v2/app/manifests/{d.digest(MANIFEST)}",
    "config": f"/v2/app/blobs/{d.digest(CONFIG)}",
    "layer": f"/v2/app/blobs/{d.digest(b'layer')}",
}


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, errors.ImageNotFound, r"does not have {} \(gone\), which the image .*push the image"),
        (403, errors.AccessDenied, r"refuses {} \(gone\); these credentials may not pull it"),
        (401, errors.Unauthenticated, r"wants credentials, or other ones, for {} \(gone\)"),
        (500, errors.RegistryUnavailable, r"answers 500 for {} \(gone\); try again later"),
    ],
)
@pytest.mark.parametrize("part", WHAT_IS_MISSING)
async def test_what_is_missing_below_a_manifest_is_named(
    part: str, status: int, kind: type[errors.ClipError], words: str
) -> None:
    held, path = shelf(), WHAT_IS_MISSING[part]
    held.replies[path] = Reply(status, body=b'{"errors": [{"message": "gone"}]}')
    named = f"{part} {path.rpartition('/')[2]}"
    with run_web(held) as web, pytest.raises(kind, match=words.format(named)) as caught:
        await (place_of_blob(web) if part == "layer" else resolve(web, ":all"))
    assert "check its name" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>" + b"x" * (MAX_DOCUMENT_BYTES + 1), id="endless-html"),
        pytest.param(b'{"errors":' + b"[" * 100_000, id="deep"),
        pytest.param(b'{"errors": []}', id="no-error"),
        pytest.param(b'{"errors": [{"message": "\\ud800"}]}', id="half-a-surrogate"),
        pytest.param(b'{"errors": [{"message": 5}]}', id="number"),
        pytest.param(b'{"errors": [{"code": "DENIED"}]}', id="code-only"),
        pytest.param(json.dumps({"errors": [{"message": BABBLE}]}).encode(), id="babble"),
    ],
)
async def test_an_error_s_body_changes_nothing_but_the_words(body: bytes) -> None:
    assert (await failure(lambda _: Reply(403, body=body))).startswith("access_denied: ")


async def test_the_registry_s_own_words_are_in_the_error() -> None:
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})
    text = await failure(lambda _: Reply(429, body=body.encode()))
    assert text.endswith("answers 429 (slow down); try again later")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="silence"),
        pytest.param(BABBLE.encode(), id="babble"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\x1b[2J\r\n\r\n", id="header-without-colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 1_000_000 + b"\r\n\r\n", id="huge-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 99_999 + b"\r\n", id="many-headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", id="cut-body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", id="negative-length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="no-chunk-size"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", id="cut-chunks"
        ),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="another-protocol"),
    ],
)
async def test_what_is_no_http_is_no_answer(raw: bytes) -> None:
    text = await failure(lambda _: Reply(raw=raw))
    assert text.startswith("registry_unavailable: ")


async def test_headers_are_a_stranger_s_words_too() -> None:
    bad = shelf()
    bad.manifest(MANIFEST, "\x9b[2J" + "x" * 9_999, "1", **{"Docker-Content-Digest": "\x9b[2J"})
    assert "corrupt_image" in await failure(bad)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Hours pass in no time; loopback is given a moment before they do."""
    return trio.testing.MockClock(autojump_threshold=0.1)


@contextlib.contextmanager
def silent_server() -> Iterator[WebServer]:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield WebServer(f"127.0.0.1:{listener.getsockname()[1]}", [])


async def test_a_registry_that_never_answers_is_given_up(clock: trio.testing.MockClock) -> None:
    with silent_server() as web, pytest.raises(errors.RegistryUnavailable, match="no answer"):
        await resolve(web)


async def test_a_registry_that_drips_is_given_up(
    clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await trio.sleep(20)
            await stream.send_all(b"x")

    with pytest.raises(errors.RegistryUnavailable, match="no answer"):
        await resolve(await started(nursery, drip))
    nursery.cancel_scope.cancel()


async def endless(stream: trio.SocketStream) -> None:
    """An answer whose body has no end, for as long as the client listens."""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await stream.send_all(b" " * 65536)


async def test_a_document_without_end_is_given_up(nursery: trio.Nursery) -> None:
    with pytest.raises(errors.CorruptImage, match="a document over"):
        await resolve(await started(nursery, endless))
    nursery.cancel_scope.cancel()


async def test_a_blob_is_not_read_by_asking_for_its_place(nursery: trio.Nursery) -> None:
    """Of a registry that knows no ranges, and answers the whole of an endless layer."""
    web = await started(nursery, endless)
    source = await place_of_blob(web)
    assert source.url == f"http://{web.address}/v2/app/blobs/{BLOB.digest}"
    nursery.cancel_scope.cancel()


async def started(
    nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> WebServer:
    """A server in nursery that hands each connection to serve, whatever it is asked."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return WebServer(f"127.0.0.1:{listener.socket.getsockname()[1]}", [])
