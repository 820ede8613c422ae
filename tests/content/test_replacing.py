"""Who has seen an object may remove it, and put another in the place of what is derived."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.content import (
    READ_TOKEN,
    ContentServer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.content_worker import run_worker

OLD, NEW = b"old" * 1000, b"new" * 2000
LAYER = f"sha256_{'d' * 64}"
DERIVED = [".v1.toc", ".v1.erofs", ".v1.trace", f".v1.origin.{'b' * 64}"]
FIXED = ["/000000", ".v1.sparse"]


@pytest.mark.parametrize("name", [*DERIVED, *FIXED])
def test_who_names_the_etag_of_what_stands_there_removes_it(
    server: ContentServer, layer: str, name: str
) -> None:
    tag = server.ask("PUT", layer + name, OLD).headers["etag"]
    assert server.ask("HEAD", layer + name).headers["etag"] == tag
    gone = server.ask("DELETE", layer + name, headers={"If-Match": tag})
    assert (gone.status, gone.body) == (204, b"")
    assert "content-length" not in gone.headers
    assert server.ask("GET", layer + name).status == 404
    assert server.ask("DELETE", layer + name, headers={"If-Match": tag}).status == 404
    assert server.ask("PUT", layer + name, NEW).status == 201
    assert server.ask("DELETE", layer + name, headers={"If-Match": tag}).status == 412
    assert server.ask("GET", layer + name).body == NEW


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param(None, 428, id="none"),
        pytest.param("", 412, id="empty"),
        pytest.param("*", 412, id="any"),
        pytest.param('"1-2"', 412, id="another"),
        pytest.param("W/{tag}", 412, id="weak"),
        pytest.param('"1-2", {tag}', 204, id="one of two"),
    ],
)
def test_a_removal_names_what_it_removes(
    header: str | None, status: int, server: ContentServer, key: str
) -> None:
    tag = server.ask("PUT", key, OLD).headers["etag"]
    headers = {} if header is None else {"If-Match": header.format(tag=tag)}
    assert server.ask("DELETE", key, headers=headers).status == status
    assert server.ask("GET", key).status == (404 if status == 204 else 200)


def test_who_may_only_read_removes_and_replaces_nothing(server: ContentServer, layer: str) -> None:
    tag = server.ask("PUT", f"{layer}.v1.toc", OLD).headers["etag"]
    seen = {"If-Match": tag}
    assert server.ask("DELETE", f"{layer}.v1.toc", token=READ_TOKEN, headers=seen).status == 403
    assert server.ask("PUT", f"{layer}.v1.toc", NEW, token=READ_TOKEN, headers=seen).status == 403
    assert server.ask("DELETE", f"{layer}.v1.toc", token=None, headers=seen).status == 401
    assert server.ask("GET", f"{layer}.v1.toc").body == OLD


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_is_replaced_by_who_has_seen_it(
    server: ContentServer, layer: str, name: str
) -> None:
    key = layer + name
    tag = server.ask("PUT", key, OLD).headers["etag"]
    assert server.ask("PUT", key, NEW).status == 409
    assert server.ask("PUT", key, NEW, headers={"If-Match": '"1-2"'}).status == 412
    assert server.ask("GET", key).body == OLD
    done = server.ask("PUT", key, NEW, headers={"If-Match": tag})
    assert done.status == 200
    got = server.ask("GET", key)
    assert (got.body, got.headers["etag"]) == (NEW, done.headers["etag"])
    assert server.ask("PUT", key, OLD, headers={"If-Match": tag}).status == 412
    assert list(server.incoming.iterdir()) == []


def test_a_replacement_whose_answer_was_lost_may_be_sent_again(
    server: ContentServer, layer: str
) -> None:
    seen = {"If-Match": server.ask("PUT", f"{layer}.v1.toc", OLD).headers["etag"]}
    for _ in range(2):
        assert server.ask("PUT", f"{layer}.v1.toc", NEW, headers=seen).status == 200


def test_nothing_is_put_in_the_place_of_what_is_not_there(
    server: ContentServer, layer: str
) -> None:
    seen = {"If-Match": '"1-2"'}
    assert server.ask("PUT", f"{layer}.v1.toc", NEW, headers=seen).status == 412
    assert server.ask("GET", f"{layer}.v1.toc").status == 404


@pytest.mark.parametrize("name", FIXED)
def test_pages_and_rebuilt_files_are_never_replaced(
    server: ContentServer, layer: str, name: str
) -> None:
    tag = server.ask("PUT", layer + name, OLD).headers["etag"]
    for header in (tag, '"1-2"', "*"):
        assert server.ask("PUT", layer + name, NEW, headers={"If-Match": header}).status == 409
        assert server.ask("PUT", layer + name, OLD, headers={"If-Match": header}).status == 200
    assert server.ask("GET", layer + name).body == OLD


def test_two_objects_that_followed_each_other_never_have_one_etag(
    server: ContentServer, key: str
) -> None:
    tags = set()
    for number in range(50):  # of one size, within moments, in the same inode perhaps
        tag = server.ask("PUT", key, b"%08d" % number).headers["etag"]
        tags.add(tag)
        assert server.ask("DELETE", key, headers={"If-Match": tag}).status == 204
    assert len(tags) == 50


@pytest.mark.parametrize("change", ["DELETE", "PUT"])
def test_who_reads_an_object_reads_it_to_its_end_whatever_becomes_of_it(
    change: str, server: ContentServer, layer: str
) -> None:
    key, big = f"{layer}.v1.toc", bytes(range(256)) * (32 << 10)
    seen = {"If-Match": server.ask("PUT", key, big).headers["etag"]}
    with server.connect() as slow:
        slow.sendall(request("GET", key, "Connection: close"))
        received = slow.recv(1)  # the rest waits for us: it is more than buffers hold
        assert (
            server.ask(change, key, None if change == "DELETE" else NEW, headers=seen).status < 300
        )
        received += read_to_end(slow)
    assert received.endswith(b"\r\n\r\n" + big)


def test_of_many_that_replace_what_they_have_seen_one_succeeds_whichever_process_it_asks(
    tmp_path: Path,
) -> None:
    with run_content_server(tmp_path) as one, run_worker(one) as other:
        key, bodies = f"{LAYER}.v1.toc", [b"%d" % number * 100 for number in range(8)]
        seen = {"If-Match": one.ask("PUT", key, OLD).headers["etag"]}
        for _ in range(10):
            with ThreadPoolExecutor(8) as pool:
                asked = [
                    pool.submit((one, other)[number % 2].ask, "PUT", key, body, headers=seen)
                    for number, body in enumerate(bodies)
                ]
            statuses = [answer.result().status for answer in asked]
            assert sorted(statuses) == [200] + [412] * 7
            now = one.ask("GET", key)
            assert now.body == bodies[statuses.index(200)]
            back = one.ask("PUT", key, OLD, headers={"If-Match": now.headers["etag"]})
            assert back.headers["etag"] == seen["If-Match"]
