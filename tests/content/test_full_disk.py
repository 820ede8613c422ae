"""A disk without room, or read-only: what comes is refused, what is there is served."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.content import (
    ContentServer,
    key_of,
    layer_of,
    read_answer,
    request,
    run_content_server,
)
from tests.support.small_disk import SmallDisk, needs_loop, small_disk
from tests.support.wait import wait_for

PAGE = os.urandom(1 << 20)

pytestmark = needs_loop


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", mebibytes=32) as mounted:
        yield mounted


@pytest.fixture
def server(disk: SmallDisk, tmp_path: Path) -> Iterator[ContentServer]:
    with run_content_server(tmp_path, directory=disk.folder / "cache") as running:
        yield running


def test_a_full_disk_refuses_objects_and_goes_on_serving(
    server: ContentServer, disk: SmallDisk
) -> None:
    tag = server.ask("PUT", key_of(1), PAGE).headers["etag"]
    disk.fill(but=512 << 10)
    for number in (2, 3):
        refused = server.ask("PUT", key_of(number), PAGE)
        assert (refused.status, refused.body) == (507, b"the disk is full\n")
    assert list(server.incoming.iterdir()) == []
    assert server.ask("GET", key_of(1)).body == PAGE
    assert server.ask("PUT", key_of(1), PAGE).status == 200
    assert server.ask("GET", "/healthz").status == 200
    assert server.ask("DELETE", key_of(1), headers={"If-Match": tag}).status == 204
    assert server.ask("PUT", key_of(2), PAGE).status == 201
    disk.free()
    assert server.ask("PUT", key_of(3), PAGE).status == 201
    assert "this is a bug" not in server.log.read_text()


def test_a_disk_without_a_single_block_refuses_objects_and_answers_claims(
    server: ContentServer, disk: SmallDisk
) -> None:
    server.ask("PUT", key_of(1), PAGE)
    disk.fill()
    claim = json.dumps({"holder": "a"}).encode()
    layer = layer_of(2)
    assert server.ask("PUT", key_of(2), PAGE).status == 507
    assert server.ask("PUT", f"/v1/claims/{layer}", claim).status in (201, 507)  # it is tiny
    assert server.ask("DELETE", f"/v1/claims/{layer}", claim).status == 204
    assert server.ask("GET", key_of(1)).body == PAGE
    disk.free()
    assert server.ask("PUT", f"/v1/claims/{layer}", claim).status == 201
    assert server.ask("PUT", key_of(2), PAGE).status == 201
    assert list(server.incoming.iterdir()) == []


def test_who_waits_to_be_told_to_go_on_sends_nothing_to_a_full_disk(
    server: ContentServer, disk: SmallDisk
) -> None:
    disk.fill(but=512 << 10)
    with server.connect() as connection:
        expecting = (f"Content-Length: {len(PAGE)}", "Expect: 100-continue")
        connection.sendall(request("PUT", key_of(1), *expecting))
        assert read_answer(connection)[0] == 507


def test_a_server_starts_on_a_full_disk_and_serves_what_is_there(
    disk: SmallDisk, tmp_path: Path
) -> None:
    with run_content_server(tmp_path, directory=disk.folder / "cache") as server:
        server.ask("PUT", key_of(1), PAGE)
    disk.fill()
    with run_content_server(tmp_path, directory=disk.folder / "cache") as server:
        assert server.ask("GET", key_of(1)).body == PAGE


def test_a_limit_above_what_the_disk_holds_is_kept_by_the_disk(
    disk: SmallDisk, tmp_path: Path
) -> None:
    where = disk.folder / "cache"
    with run_content_server(tmp_path, "--max-bytes", "1Gi", directory=where) as server:
        assert "--max-bytes is more than the disk holds" in server.log.read_text()
        statuses = [server.ask("PUT", key_of(number), PAGE).status for number in range(40)]
        stored = statuses.count(201)
        assert 20 < stored < 32
        assert statuses == [201] * stored + [507] * (40 - stored)
        assert server.ask("GET", key_of(stored - 1)).body == PAGE


def test_a_disk_that_has_become_read_only_refuses_changes_and_serves_what_is_there(
    server: ContentServer, disk: SmallDisk
) -> None:
    tag = server.ask("PUT", key_of(1), PAGE).headers["etag"]
    os.utime(server.objects / key_of(1).partition("/")[0], (1, 1))  # its use is to be noted
    claim = json.dumps({"holder": "a"}).encode()
    disk.make_read_only()
    before = open_files(server)
    for _ in range(8):
        assert server.ask("GET", key_of(1)).body == PAGE
        part = server.ask("GET", key_of(1), headers={"Range": "bytes=1-9"})
        assert (part.status, part.body) == (206, PAGE[1:10])
    refusals = [
        server.ask("PUT", key_of(2), PAGE),
        server.ask("DELETE", key_of(1), headers={"If-Match": tag}),
        server.ask("PUT", f"/v1/claims/{key_of(2).partition('/')[0]}", claim),
    ]
    assert [(one.status, one.body) for one in refusals] == [(507, b"the disk is read-only\n")] * 3
    wait_for(lambda: open_files(server) <= before)
    assert server.ask("PUT", key_of(1), PAGE).status == 200
    assert "this is a bug" not in server.log.read_text()


def open_files(server: ContentServer) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.workers())
