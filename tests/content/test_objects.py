"""What the content cache answers, spoken to over plain HTTP."""

import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import pytest

from clipfs.content.incoming import Refused
from clipfs.content.keys import MAX_INDEX_BYTES, PAGE_BYTES
from clipfs.content.objects import STATUS
from tests.support.content import (
    READ_TOKEN,
    TOKEN,
    Answer,
    ContentServer,
    content_digest,
    key_of,
    read_answer,
    request,
)

DATA = bytes(range(256)) * 100
LAYER = "sha256_" + "a" * 64


def test_what_is_put_can_be_got(server: ContentServer, key: str) -> None:
    assert server.ask("GET", key).status == 404
    assert server.ask("PUT", key, DATA).status == 201
    got = server.ask("GET", key)
    assert (got.status, got.body) == (200, DATA)
    assert got.headers["content-length"] == str(len(DATA))
    assert got.headers["accept-ranges"] == "bytes"


def lasting(answer: Answer) -> dict[str, str]:
    """Its headers but for its date."""
    return {name: value for name, value in answer.headers.items() if name != "date"}


def test_a_head_is_the_get_without_its_body(server: ContentServer, key: str) -> None:
    server.ask("PUT", key, DATA)
    head, got = server.ask("HEAD", key), server.ask("GET", key)
    assert (head.status, head.body, lasting(head)) == (200, b"", lasting(got))
    part = {"Range": "bytes=5-9"}
    head, got = server.ask("HEAD", key, headers=part), server.ask("GET", key, headers=part)
    assert (head.status, head.body, lasting(head)) == (206, b"", lasting(got))
    assert server.ask("HEAD", key_of(0)).status == 404
    assert server.ask("HEAD", key, token=None).status == 401
    assert server.ask("HEAD", "/nothing").status == 404


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        pytest.param("GET", key_of(0xDA7E), {"Range": "bytes=0-0"}, 206, id="an open file"),
        pytest.param("GET", key_of(0xDA7E), {}, 200, id="a file"),
        pytest.param("HEAD", key_of(0xDA7E), {"Expect": "none"}, 200, id="by h11"),
        pytest.param("PUT", key_of(0xDA7E), {}, 200, id="without a body"),
        pytest.param("GET", key_of(0xDA7F), {}, 404, id="a refusal"),
    ],
)
def test_an_answer_has_the_date_of_its_making(
    method: str, target: str, headers: dict[str, str], status: int, server: ContentServer
) -> None:
    server.ask("PUT", key_of(0xDA7E), DATA)
    begin = int(time.time())
    answer = server.ask(method, target, DATA if method == "PUT" else None, headers=headers)
    assert answer.status == status
    assert begin <= parsedate_to_datetime(answer.headers["date"]).timestamp() <= time.time()


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        pytest.param("bytes=100-199", 206, range(100, 200), id="the middle"),
        pytest.param("bytes=25000-", 206, range(25000, 25600), id="to the end"),
        pytest.param("bytes=-100", 206, range(25500, 25600), id="the last bytes"),
        pytest.param("bytes=25600-", 416, None, id="behind the end"),
        pytest.param("bytes=0-1,5-6", 200, None, id="two ranges"),
    ],
)
def test_a_range_gives_its_bytes_and_the_total(
    header: str, status: int, part: range | None, server: ContentServer, key: str
) -> None:
    server.ask("PUT", key, DATA)
    got = server.ask("GET", key, headers={"Range": header})
    assert got.status == status
    if part is not None:
        assert got.body == DATA[part.start : part.stop]
        assert got.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{len(DATA)}"
    elif status == 416:
        assert got.headers["content-range"] == f"bytes */{len(DATA)}"
        assert got.headers["etag"] == server.ask("GET", key).headers["etag"]
    else:
        assert got.body == DATA
        assert "content-range" not in got.headers


def test_an_etag_is_the_bytes_own_and_guards_a_range(
    server: ContentServer, fresh_key: Callable[[], str]
) -> None:
    one, same, other = fresh_key(), fresh_key(), fresh_key()
    tag = server.ask("PUT", one, DATA).headers["etag"]
    server.ask("PUT", same, DATA)
    server.ask("PUT", other, DATA[::-1])
    assert server.ask("GET", one).headers["etag"] == tag
    assert server.ask("GET", same).headers["etag"] == tag
    assert server.ask("GET", other).headers["etag"] != tag
    part = {"Range": "bytes=0-4", "If-Range": tag}
    assert server.ask("GET", one, headers=part).body == DATA[:5]
    assert server.ask("GET", other, headers=part).body == DATA[::-1]


def test_an_object_is_immutable(server: ContentServer, key: str) -> None:
    assert server.ask("PUT", key, DATA).status == 201
    tag = server.ask("HEAD", key).headers["etag"]
    assert server.ask("PUT", key, DATA).status == 200
    assert server.ask("PUT", key, DATA[:-1] + b"x").status == 409
    assert server.ask("PUT", key, b"").status == 409
    got = server.ask("GET", key)
    assert (got.body, got.headers["etag"]) == (DATA, tag)


def test_of_two_objects_that_come_for_one_key_at_once_the_first_stands(
    server: ContentServer, key: str
) -> None:
    with server.connect() as one, server.connect() as other:
        server.begin_upload(one, key, b"hell", b"hello")
        server.begin_upload(other, key, b"hell", b"hell!")
        one.sendall(b"o")
        assert read_answer(one)[0] == 201
        other.sendall(b"!")
        assert read_answer(other)[0] == 409
    assert server.ask("GET", key).body == b"hello"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param(content_digest(DATA), 201, id="right"),
        pytest.param(f"sha-512=:AAAA:, {content_digest(DATA)}", 201, id="among others"),
        pytest.param(content_digest(DATA[1:]), 400, id="wrong"),
        pytest.param("sha-512=:AAAA:", 400, id="another algorithm"),
        pytest.param("sha-256=:not base64:", 400, id="malformed"),
        pytest.param("", 400, id="empty"),
    ],
)
def test_a_content_digest_is_checked(
    header: str, status: int, server: ContentServer, key: str
) -> None:
    assert server.ask("PUT", key, DATA, headers={"Content-Digest": header}).status == status
    assert server.ask("GET", key).status == (200 if status == 201 else 404)
    assert list(server.incoming.iterdir()) == []


@pytest.mark.parametrize(
    "target", [key_of(0xD16E57), key_of(0xD16E57, None)], ids=["page", "index"]
)
def test_an_upload_without_a_content_digest_is_refused_in_one_line(
    target: str, server: ContentServer
) -> None:
    put = f"PUT /v1/objects/{target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    with server.connect() as connection:
        connection.sendall(f"{put}Content-Length: 5\r\n\r\nhello".encode())
        status, words = read_answer(connection)
    assert (status, words) == (400, b"Content-Digest: sha-256=:BASE64: of the body is needed\n")
    assert server.ask("GET", target).status == 404


@pytest.mark.parametrize(
    ("token", "get", "put"),
    [
        pytest.param(TOKEN, 200, 200, id="write"),
        pytest.param(READ_TOKEN, 200, 403, id="read"),
        pytest.param(TOKEN + "x", 401, 401, id="wrong"),
        pytest.param("", 401, 401, id="empty"),
        pytest.param(None, 401, 401, id="none"),
    ],
)
def test_a_token_gives_its_rights_and_no_others(
    token: str | None, get: int, put: int, server: ContentServer, key: str
) -> None:
    server.ask("PUT", key, DATA)
    assert server.ask("GET", key, token=token).status == get
    assert server.ask("PUT", key, DATA, token=token).status == put
    assert server.ask("GET", key, token=token).body == (
        DATA if get == 200 else b"a bearer token is needed\n"
    )


def test_a_refusal_says_how_to_authenticate(server: ContentServer, key: str) -> None:
    assert server.ask("GET", key, token=None).headers["www-authenticate"] == "Bearer"
    basic = {"Authorization": f"Basic {TOKEN}"}
    assert server.ask("GET", key, token=None, headers=basic).status == 401


def test_only_health_is_told_without_a_token(server: ContentServer) -> None:
    assert json.loads(server.ask("GET", "/healthz", token=None).body)["status"] == "ok"
    assert server.ask("HEAD", "/healthz", token=None).status == 200
    for target in ("/", "/v1/objects/", "/v1/claims/", "/metrics/x", "/healthz/x"):
        assert server.ask("GET", target, token=None).status == 401


@pytest.mark.parametrize(
    "key",
    [
        "..%2f..%2fetc%2fpasswd",
        "../../../etc/passwd",
        f"{LAYER}/../../token",
        f"{LAYER}/..",
        f"{LAYER}/00000",
        f"{LAYER}/0000000",
        f"{LAYER}/000000/",
        f"{LAYER}/000000?x=1",
        f"{LAYER}//000000",
        f"./{LAYER}/000000",
        LAYER.upper() + "/000000",
        LAYER.replace("_", ":") + "/000000",
        LAYER[:-1] + "/000000",
        LAYER,
        f"{LAYER}.v2.toc",
        f"{LAYER}.v1.toc/000000",
        f"{LAYER}.v1.origin.x",
        "000000",
        "",
    ],
)
def test_what_is_no_key_is_not_found_and_touches_no_file(server: ContentServer, key: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        assert (
            server.ask(method, f"/v1/objects/{key}", DATA if method == "PUT" else None).status
            == 404
        )
    assert list(server.incoming.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "/000000",
        "/999999",
        ".v1.toc",
        ".v1.sparse",
        ".v1.erofs",
        ".v1.trace",
        f".v1.origin.{'b' * 64}",
    ],
)
@pytest.mark.parametrize("raw", ["", ".raw"], ids=["layer", "artifact"])
def test_every_name_of_the_contract_is_a_key(server: ContentServer, raw: str, name: str) -> None:
    key = f"sha256_{'c' * 64}{raw}{name}"
    assert server.ask("PUT", key, DATA).status == 201
    assert server.ask("GET", key).body == DATA


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_are_told_which_ones_there_are(
    method: str, server: ContentServer, key: str
) -> None:
    answer = server.ask(method, key)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT, DELETE")


def test_an_object_of_no_bytes_is_an_object(server: ContentServer, key: str) -> None:
    assert server.ask("PUT", key, b"").status == 201
    assert server.ask("GET", key).body == b""
    assert server.ask("GET", key, headers={"Range": "bytes=0-"}).status == 416


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        pytest.param(("Transfer-Encoding: chunked",), 411, id="no length"),
        pytest.param((f"Content-Length: {PAGE_BYTES + 1}",), 413, id="a page and a byte"),
        pytest.param((f"Content-Length: {1 << 62}",), 413, id="four exabytes"),
        pytest.param(("Content-Length: -1",), 400, id="negative"),
        pytest.param(("Content-Length: 1", "Content-Length: 2"), 400, id="two lengths"),
    ],
)
def test_a_body_must_have_a_length_within_the_limit(
    lines: tuple[str, ...], status: int, server: ContentServer, key: str
) -> None:
    with server.connect() as connection:
        connection.sendall(request("PUT", key, *lines))
        assert read_answer(connection)[0] == status
    assert list(server.incoming.iterdir()) == []


def test_an_index_may_be_longer_than_a_page(server: ContentServer) -> None:
    key = key_of(0xABC, page=None)
    assert server.ask("PUT", key, bytes(PAGE_BYTES + 1)).status == 201
    with server.connect() as connection:
        connection.sendall(request("PUT", key, f"Content-Length: {MAX_INDEX_BYTES + 1}"))
        assert read_answer(connection)[0] == 413


def test_every_refusal_has_a_status() -> None:
    assert STATUS.keys() == set(Refused.__subclasses__())


def test_a_store_is_logged_as_the_contract_says(server: ContentServer, key: str) -> None:
    server.ask("PUT", key, b"hello")
    log = server.log.read_text()
    assert '"Store[ACK] (5 bytes)"' in log
    assert f'"Added object: {key}"' in log
    assert f'"Store[OK] - [{key}]"' in log
    assert TOKEN not in log
    assert READ_TOKEN not in log


def test_a_key_that_is_missed_again_and_again_is_a_warning(server: ContentServer, key: str) -> None:
    for _ in range(10):
        assert server.ask("GET", key).status == 404
    levels = [line["level"] for line in server.log_lines() if line.get("key") == key]
    assert levels == ["debug"] * 9 + ["warning"]
