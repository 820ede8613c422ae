"""Room under --max-bytes: whole layers go, the least recently used first, nothing that is used.

To let time pass, a test sets a layer's last use, its folder's mtime, back.
One module, though long: the account of room, its watermarks and its kills share that trick.
"""

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clipfs.content.deadlines import transfer_s
from clipfs.content.eviction import IN_USE_S
from clipfs.content.folder import Folder, cost_of
from clipfs.content.keys import MAX_INDEX_BYTES
from clipfs.content.ledger import Ledger
from clipfs.content.store import Store
from tests.support.content import (
    ContentServer,
    key_of,
    layer_of,
    read_answer,
    read_to_end,
    request,
    run_content_server,
)
from tests.support.content_worker import run_worker
from tests.support.wait import wait_for

PAGE = bytes(100 << 10)
MAX_BYTES = 10 * len(PAGE)
OPTION = ("--max-bytes", "1000Ki")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ContentServer]:
    with run_content_server(tmp_path, *OPTION) as running:
        yield running


def put(server: ContentServer, layer: int, *pages: int) -> list[int]:
    return [server.ask("PUT", key_of(layer, page), PAGE).status for page in pages]


def used(server: ContentServer, layer: int, *, seconds_ago: float) -> None:
    """The layer was used so long ago."""
    at = time.time() - seconds_ago
    os.utime(server.objects / layer_of(layer), (at, at))


def is_here(server: ContentServer, layer: int) -> bool:
    """Whether anything of it is left; looked up without using it."""
    return any(path.name.startswith(layer_of(layer)) for path in server.objects.iterdir())


def on_disk(server: ContentServer) -> int:
    return sum(
        cost_of(path.stat().st_size)
        for name in ("objects", "incoming", "evicted")
        for path in (server.directory / name).rglob("*")
        if path.is_file()
    )


def evictions(server: ContentServer) -> int:
    return server.log.read_text().count('"evicted a layer"')


def has_evicted(server: ContentServer, layers: int) -> bool:
    return evictions(server) >= layers


def told(server: ContentServer) -> int:
    """How much is kept, as the server's own account says."""
    return Ledger(server.directory / "kept", lambda: 0).read().bytes


def test_below_the_limit_nothing_goes(small: ContentServer) -> None:
    assert put(small, 1, *range(10)) == [201] * 10
    assert told(small) == on_disk(small) == MAX_BYTES
    assert evictions(small) == 0


def test_what_is_there_already_needs_no_room(small: ContentServer) -> None:
    put(small, 1, *range(4))
    small.ask("PUT", key_of(1, None), PAGE)
    put(small, 2, *range(5))
    used(small, 1, seconds_ago=9000)
    assert put(small, 2, *range(5)) == [200] * 5
    assert small.ask("PUT", key_of(2), PAGE[1:]).status == 409
    index = small.ask("PUT", key_of(1, None), PAGE[1:], headers={"If-Match": '"1-2"'})
    assert index.status == 412
    assert is_here(small, 1)
    assert told(small) == MAX_BYTES


def test_beyond_it_the_least_recently_used_layer_goes_whole(small: ContentServer) -> None:
    for layer in (1, 2, 3):
        put(small, layer, 0, 1, 2)
    beside = [".v1.toc", ".v1.sparse", f".v1.origin.{'a' * 64}"]
    for name in beside:
        assert small.ask("PUT", layer_of(2) + name, b"small").status == 201
    for layer, seconds in ((1, 1000), (2, 3000), (3, 2000)):
        used(small, layer, seconds_ago=seconds)
    assert put(small, 4, 0) == [201]
    assert (is_here(small, 1), is_here(small, 2), is_here(small, 3)) == (True, False, True)
    assert {small.ask("GET", layer_of(2) + name).status for name in beside} == {404}
    assert small.ask("GET", key_of(1, 2)).body == PAGE
    assert evictions(small) == 1


def test_it_stops_at_the_low_watermark(small: ContentServer) -> None:
    for layer in range(10):
        put(small, layer, 0)
        used(small, layer, seconds_ago=10000 - layer)
    put(small, 10, 0)
    wait_for(lambda: told(small) <= MAX_BYTES * 9 // 10)
    assert [layer for layer in range(11) if is_here(small, layer)] == list(range(2, 11))
    assert told(small) == on_disk(small)


def test_a_read_is_a_use(small: ContentServer) -> None:
    for layer in (1, 2):
        put(small, layer, *range(5))
        used(small, layer, seconds_ago=3000 - layer)
    assert small.ask("GET", key_of(1, 0), headers={"Range": "bytes=0-9"}).status == 206
    put(small, 3, 0)
    assert (is_here(small, 1), is_here(small, 2)) == (True, False)


def test_storing_what_is_there_is_a_use(small: ContentServer) -> None:
    for layer in (1, 2):
        put(small, layer, *range(5))
        used(small, layer, seconds_ago=3000 - layer)
    assert put(small, 1, 0) == [200]
    put(small, 3, 0)
    assert (is_here(small, 1), is_here(small, 2)) == (True, False)


def test_what_is_not_ours_is_left_alone(small: ContentServer) -> None:
    foreign = small.objects / "lost+found"
    foreign.mkdir()
    os.utime(foreign, (0, 0))
    put(small, 1, *range(10))
    used(small, 1, seconds_ago=9000)
    assert put(small, 2, 0) == [201]
    assert foreign.exists()


def test_an_index_is_used_as_its_layer(small: ContentServer) -> None:
    for layer in (1, 2):
        put(small, layer, *range(4))
        small.ask("PUT", key_of(layer, None), PAGE)
        used(small, layer, seconds_ago=3000 - layer)
    assert small.ask("HEAD", key_of(1, None)).status == 200
    put(small, 3, 0)
    assert (is_here(small, 1), is_here(small, 2)) == (True, False)


def test_uses_survive_a_kill_and_a_restart(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *OPTION) as server:
        for layer in (1, 2):
            put(server, layer, *range(5))
            used(server, layer, seconds_ago=3000 - layer)
        server.ask("GET", key_of(1, 0))
        server.kill()
    with run_content_server(tmp_path, *OPTION) as server:
        put(server, 3, 0)
        assert (is_here(server, 1), is_here(server, 2)) == (True, False)


def test_what_was_just_written_stays_and_what_comes_is_refused(small: ContentServer) -> None:
    put(small, 1, *range(10))
    refused = small.ask("PUT", key_of(2), PAGE)
    assert (refused.status, b"in use" in refused.body or b"used" in refused.body) == (507, True)
    assert small.ask("GET", key_of(1, 9)).body == PAGE
    assert list(small.incoming.iterdir()) == []
    used(small, 1, seconds_ago=IN_USE_S + 1)
    assert put(small, 2, 0) == [201]


def test_a_layer_stays_while_its_largest_object_may_still_be_read(small: ContentServer) -> None:
    put(small, 1, *range(10))
    used(small, 1, seconds_ago=transfer_s(MAX_INDEX_BYTES))
    assert put(small, 2, 0) == [507]


def test_what_is_being_read_stays_while_others_go(tmp_path: Path) -> None:
    big = os.urandom(8 << 20)
    with run_content_server(tmp_path, "--max-bytes", "20Mi") as server, server.connect() as slow:
        for layer in (1, 2):
            assert server.ask("PUT", key_of(layer), big).status == 201
            used(server, layer, seconds_ago=9000 - layer)
        slow.sendall(request("GET", key_of(1), "Connection: close"))
        assert slow.recv(1) == b"H"  # the rest waits for us: it is more than buffers hold
        assert server.ask("PUT", key_of(3), big).status == 201
        assert (is_here(server, 1), is_here(server, 2)) == (True, False)
        assert read_to_end(slow).endswith(big)


def test_an_object_that_never_fits_is_refused_and_nothing_goes_for_it(
    small: ContentServer,
) -> None:
    put(small, 1, 0)
    used(small, 1, seconds_ago=10000)
    with small.connect() as connection:
        connection.sendall(request("PUT", key_of(2), f"Content-Length: {MAX_BYTES + 1}"))
        status, words = read_answer(connection)
    assert (status, str(MAX_BYTES) in words.decode()) == (413, True)
    assert is_here(small, 1)


def test_bytes_on_their_way_count(small: ContentServer) -> None:
    put(small, 1, *range(9))
    with small.connect() as slow:
        small.begin_upload(slow, key_of(2), PAGE[:5], PAGE)
        assert put(small, 3, 0) == [507]
        slow.sendall(PAGE[5:])
        assert read_answer(slow)[0] == 201
    assert told(small) == on_disk(small) == MAX_BYTES


def test_an_upload_that_breaks_off_gives_its_room_back(small: ContentServer) -> None:
    put(small, 1, *range(9))
    with small.connect() as gone:
        small.begin_upload(gone, key_of(2), PAGE[:5], PAGE)
    wait_for(lambda: not list(small.incoming.iterdir()))
    assert put(small, 3, 0) == [201]


def test_removed_and_replaced_bytes_are_accounted_for(small: ContentServer) -> None:
    tag = small.ask("PUT", key_of(1, None), PAGE).headers["etag"]
    tag = small.ask("PUT", key_of(1, None), PAGE * 2, headers={"If-Match": tag}).headers["etag"]
    assert told(small) == on_disk(small) == 2 * len(PAGE)
    tag = small.ask("PUT", key_of(1, None), b"", headers={"If-Match": tag}).headers["etag"]
    assert told(small) == on_disk(small) == cost_of(0)
    small.ask("DELETE", key_of(1, None), headers={"If-Match": tag})
    assert told(small) == on_disk(small) == 0


def test_empty_objects_take_room_too(tmp_path: Path) -> None:
    with run_content_server(tmp_path, "--max-bytes", "16Ki") as server:
        statuses = [server.ask("PUT", key_of(1, page), b"").status for page in range(5)]
    assert statuses == [201] * 4 + [507]


def test_pages_that_an_interrupted_store_left_go_like_others(small: ContentServer) -> None:
    put(small, 1, 0, 1)
    put(small, 2, *range(8))
    used(small, 1, seconds_ago=9000)
    used(small, 2, seconds_ago=8000)
    put(small, 3, 0)
    assert (is_here(small, 1), is_here(small, 2)) == (False, True)


def test_indexes_alone_are_a_layer_too(small: ContentServer) -> None:
    small.ask("PUT", f"{layer_of(1)}.v1.trace", PAGE)
    put(small, 2, *range(9))
    used(small, 1, seconds_ago=9000)
    assert put(small, 3, 0) == [201]
    assert not is_here(small, 1)


def test_a_lower_limit_than_before_holds_from_the_start(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server:
        for layer in range(20):
            put(server, layer, 0)
            used(server, layer, seconds_ago=9000 - layer)
    with run_content_server(tmp_path, *OPTION) as server:
        wait_for(lambda: told(server) <= MAX_BYTES * 9 // 10)
        assert [layer for layer in range(20) if is_here(server, layer)] == list(range(11, 20))
        assert told(server) == on_disk(server)


def test_a_server_ends_in_the_middle_of_an_eviction(tmp_path: Path) -> None:
    objects = tmp_path / "objects/objects"
    for layer in range(3000):
        (objects / layer_of(layer)).mkdir(parents=True)
        for page in range(4):
            (objects / key_of(layer, page)).touch()
        os.utime(objects / layer_of(layer), (layer, layer))
    with run_content_server(tmp_path, "--max-bytes", "4096") as server:
        wait_for(lambda: has_evicted(server, 1))
        server.process.terminate()
        assert server.process.wait(10) == 0
    assert 0 < len(list(objects.iterdir())) < 3000
    assert list((server.directory / "evicted").iterdir()) == []
    assert told(server) == on_disk(server)


def test_a_folder_of_an_earlier_version_is_counted_and_bounded(tmp_path: Path) -> None:
    objects = tmp_path / "objects/objects"
    (objects / layer_of(2)).mkdir(parents=True)
    (objects / f"{layer_of(1)}.v1.toc").write_bytes(PAGE)
    (objects / key_of(2)).write_bytes(PAGE)
    with run_content_server(tmp_path, *OPTION) as server:
        assert told(server) == 2 * len(PAGE)
        for layer in (1, 2):
            used(server, layer, seconds_ago=9000 - layer)
        put(server, 3, *range(9))
        assert not is_here(server, 1)


def test_a_kill_in_the_middle_of_an_upload_leaves_a_true_account(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *OPTION) as server, server.connect() as connection:
        put(server, 1, *range(5))
        server.begin_upload(connection, key_of(2), b"half", PAGE)
        server.kill()
    with run_content_server(tmp_path, *OPTION) as server:
        assert list(server.incoming.iterdir()) == []
        assert told(server) == on_disk(server) == 5 * len(PAGE)


def test_kills_in_the_middle_of_evictions_leave_a_true_account_and_whole_layers(
    tmp_path: Path,
) -> None:
    numbers = itertools.count()
    for kill_after in range(6):
        with run_content_server(tmp_path, *OPTION) as server:
            wait_for(lambda: told(server) <= MAX_BYTES)
            assert told(server) == on_disk(server)
            for path in server.objects.iterdir():
                if path.is_dir():
                    os.utime(path, (1e9, 1e9))
            log_before = evictions(server)

            def store_on(server: ContentServer = server) -> None:
                try:
                    while True:
                        number = next(numbers)
                        put(server, number, *range(4))
                        server.ask("PUT", key_of(number, None), b"index")
                        used(server, number, seconds_ago=9000 - number)
                except OSError:
                    pass

            storing = threading.Thread(target=store_on)
            storing.start()
            wait_for(partial(has_evicted, server, log_before + kill_after + 1))
            server.kill()
            storing.join()
        for path in (tmp_path / "objects/objects").glob("*.v1.toc"):
            pages = path.with_name(path.name.removesuffix(".v1.toc"))
            assert len(list(pages.iterdir())) == 4  # no index without its pages
    assert next(numbers) > 12


def test_what_a_killed_eviction_has_left_is_counted_and_removed(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *OPTION) as server:
        put(server, 1, *range(4))
    left = tmp_path / "objects/evicted/left"
    os.rename(server.objects / layer_of(1), left)
    with run_content_server(tmp_path, *OPTION) as server:
        assert not left.exists()
        assert told(server) == on_disk(server) == 0


def test_an_account_that_was_being_changed_when_its_process_died_is_made_anew(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path, max_bytes=MAX_BYTES)
    with store.receive(key_of(1), 5, replaces=None) as incoming:
        incoming.write(b"hello")
        incoming.finish(hashlib.sha256(b"hello").digest())
    kept = bytearray((tmp_path / "kept").read_bytes())
    kept[0], kept[5] = 1, 77  # as it is between two writes, and wrong
    (tmp_path / "kept").write_bytes(kept)
    with store.receive(key_of(2), 5, replaces=None):
        assert store.usage().bytes == Folder(tmp_path).kept_bytes() == cost_of(5)


def test_two_processes_keep_one_limit_and_one_account(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *OPTION) as one, run_worker(one, MAX_BYTES) as other:
        numbers = itertools.count()
        refused: list[int] = []

        def store(server: ContentServer) -> None:
            for _ in range(15):
                number = next(numbers)
                refused.extend(status for status in put(server, number, 0, 1) if status != 201)
                used(one, number, seconds_ago=9000 - number)

        threads = [threading.Thread(target=store, args=(s,)) for s in (one, other, one, other)]
        most = 0
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, told(one))
        for thread in threads:
            thread.join()
        put(other, next(numbers), 0, 1, 2)
        wait_for(lambda: told(one) <= MAX_BYTES * 9 // 10)
        assert most <= MAX_BYTES
        assert told(one) == on_disk(one)
        assert set(refused) <= {507}
        assert list(one.incoming.iterdir()) == []


def test_what_a_killed_worker_was_receiving_makes_room_for_others(tmp_path: Path) -> None:
    with run_content_server(tmp_path, *OPTION) as one:
        with run_worker(one, MAX_BYTES) as worker, worker.connect() as connection:
            worker.begin_upload(connection, key_of(1), b"half", PAGE)
            worker.kill()
        assert list(one.incoming.iterdir())
        assert put(one, 2, *range(10)) == [201] * 10
        assert list(one.incoming.iterdir()) == []


def test_a_folder_is_not_taken_over_while_a_worker_of_its_owner_lives(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as one, run_worker(one) as worker:
        one.kill()
        assert worker.ask("GET", "/healthz").status == 200
        with pytest.raises(Exception, match="another content cache serves it"):
            Store.open(one.directory)
        worker.kill()
        assert Store.open(one.directory).usage().bytes == 0
