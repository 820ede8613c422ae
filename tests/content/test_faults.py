"""A kill, or an error of the disk, at any write of a store that has to evict: nothing half done.

Not here: how such calls are caught (`tests.support.write_points`).
"""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from clipfs.content.folder import Folder
from clipfs.content.ledger import Ledger
from tests.support.content import ContentServer, key_of, layer_of, run_content_server
from tests.support.wait import wait_for
from tests.support.write_points import Fault, WritePoints, watched

PAGE = bytes(100 << 10)
MAX_BYTES = 1000 << 10
LIMIT = ("--max-bytes", str(MAX_BYTES))
ONE_WORKER = ("--workers", "1")
"""Another one's writes would count, too."""


@contextmanager
def full_server(home: Path, points: WritePoints) -> Iterator[ContentServer]:
    """A server that has no room for one more page, and two old layers of three objects."""
    with run_content_server(home, *LIMIT, *ONE_WORKER, under=points) as server:
        for layer in (1, 2, 3):
            for page in range(2 if layer < 3 else 4):
                assert server.ask("PUT", key_of(layer, page), PAGE).status == 201
            assert server.ask("PUT", key_of(layer, None), PAGE[: 1 << 12]).status == 201
        assert server.ask("PUT", key_of(4, 0), bytes(188 << 10)).status == 201
        assert complaints(server) == []
        for layer in (1, 2):
            os.utime(server.objects / layer_of(layer), (layer, layer))
        yield server


def store(server: ContentServer) -> int | None:
    """Store a page for which a layer has to go; None: the connection was closed.

    It is so short that it arrives in one piece, and is written at once.
    """
    try:
        return server.ask("PUT", key_of(4, 1), PAGE[: 1 << 12]).status
    except OSError:
        return None


def complaints(server: ContentServer) -> list[str]:
    """What is wrong with what the server has on its disk."""
    found = []
    folder = Folder(server.directory)
    with Ledger(folder.kept, folder.kept_bytes).locked() as account:  # one in doubt is made anew
        kept = account.bytes
    if kept != folder.kept_bytes():
        found.append(f"{kept} bytes are said to be kept, {folder.kept_bytes()} are")
    if kept + folder.transit_bytes() > MAX_BYTES:
        found.append(f"{kept + folder.transit_bytes()} bytes")
    found += [f"left: {path}" for path in folder.incoming.iterdir()]
    for layer in (1, 2):
        whole = all((server.objects / key_of(layer, page)).exists() for page in (0, 1))
        if (server.objects / key_of(layer, None)).exists() and not whole:
            found.append(f"layer {layer} has an index and not all its pages")
    return found


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many writes such a store makes until it is answered."""
    home = tmp_path_factory.mktemp("count")
    with watched(home / "objects") as points, full_server(home, points) as server:
        points.watch()
        assert store(server) == 201
        made = len(points.calls)
        assert complaints(server) == []
    assert {"link", "rename", "pwrite64", "fsync", "write"} <= {one.name for one in points.calls}
    return made


def test_a_kill_at_any_write_leaves_whole_layers_and_a_true_account(
    count: int, tmp_path: Path
) -> None:
    def kill(at: int) -> None:
        home = tmp_path / str(at)
        with watched(home / "objects") as points:
            with full_server(home, points) as server:
                points.watch(Fault(at=at))
                store(server)
                server.kill()  # the worker that wrote has been
                met = points.met
            assert met is not None
            points.watch()
            with run_content_server(home, *LIMIT, *ONE_WORKER, under=points) as server:
                assert complaints(server) == [], met
                assert list((server.directory / "evicted").iterdir()) == []
                assert store(server) in (200, 201)
                assert complaints(server) == [], met

    two_at_a_time(kill, count)


def two_at_a_time(body: Callable[[int], None], count: int) -> None:
    """Call body for each number below count: the servers' starts are most of it."""
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(body, range(count)))) == count > 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_an_error_at_any_write_is_answered_and_the_server_goes_on(
    error: int, count: int, tmp_path: Path
) -> None:
    def fail(at: int) -> None:
        home = tmp_path / str(at)
        with watched(home / "objects") as points, full_server(home, points) as server:
            points.watch(Fault(at=at, error=error))
            status = store(server)
            wait_for(partial(getattr, points, "met"))
            assert status in (201, 507 if error == errno.ENOSPC else None), points.met
            points.watch()
            assert store(server) in (200, 201), points.met
            assert complaints(server) == [], points.met
            assert "this is a bug" not in server.log.read_text()

    two_at_a_time(fail, count)


def test_an_error_at_any_write_of_a_replacement_leaves_a_true_account(tmp_path: Path) -> None:
    with (
        watched(tmp_path / "objects") as points,
        run_content_server(tmp_path, *LIMIT, *ONE_WORKER, under=points) as server,
    ):
        key, bodies = key_of(5, None), (bytes(4 << 10), bytes(20 << 10))
        assert server.ask("PUT", key, bodies[0]).status == 201
        for at in itertools.count():
            held = server.ask("GET", key)
            body = bodies[held.body == bodies[0]]  # the one that is not there
            points.watch(Fault(at=at, error=errno.EIO))
            with suppress(OSError):  # the connection was closed
                server.ask("PUT", key, body, headers={"If-Match": held.headers["etag"]})
            if points.met is None:
                break
            points.watch()
            assert complaints(server) == [], at
    assert at > 5


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_more_writes_still_serves_what_it_holds(
    error: int, tmp_path: Path
) -> None:
    with (
        watched(tmp_path / "objects") as points,
        run_content_server(tmp_path, *ONE_WORKER, under=points) as server,
    ):
        assert server.ask("PUT", key_of(1), PAGE).status == 201
        os.utime(server.objects / layer_of(1), (1, 1))
        points.watch(Fault(at=0, error=error, stays=True))
        assert server.ask("GET", key_of(1)).body == PAGE
        assert server.ask("PUT", key_of(1), PAGE).status == 200
        assert points.met is not None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, None], ids=["ENOSPC", "EIO", "kill"])
def test_a_fault_at_any_write_of_a_claim_leaves_the_one_before_or_none(
    error: int | None, tmp_path: Path
) -> None:
    def claim(server: ContentServer, holder: str) -> int | None:
        body = b'{"holder":"%s"}' % holder.encode()
        try:
            return server.ask("PUT", f"/v1/claims/{layer_of(1)}", body).status
        except OSError:
            return None

    first = tmp_path / "first"
    with (
        watched(first / "objects") as points,
        run_content_server(first, *ONE_WORKER, under=points) as server,
    ):
        points.watch()
        assert claim(server, "a") == 201
        count = len(points.calls)

    def fail(at: int) -> None:
        home = tmp_path / f"at-{at}"
        with watched(home / "objects") as points:
            with run_content_server(home, *ONE_WORKER, under=points) as server:
                assert claim(server, "a") == 201
                points.watch(Fault(at=at, error=error))
                status = claim(server, "a")
                assert points.met is not None
                assert status == (507 if error == errno.ENOSPC else None), points.met
                if error is None:
                    server.kill()  # the worker that wrote has been
                points.watch()
            with run_content_server(home, *ONE_WORKER, under=points) as server:
                assert claim(server, "b") == 409
                assert claim(server, "a") == 201

    two_at_a_time(fail, count)
