"""A replica tells who it is, and stays that for as long as its folder is there."""

import json
import uuid
from pathlib import Path

from tests.support.content import ContentServer, run_content_server
from tests.support.content_worker import run_worker


def identity(server: ContentServer) -> str:
    health = server.ask("GET", "/healthz", token=None)
    assert (health.status, health.headers["content-type"]) == (200, "application/json")
    said = json.loads(health.body)
    assert said["status"] == "ok"
    return str(uuid.UUID(said["id"]))


def test_its_id_is_the_folders_and_survives_a_kill(tmp_path: Path) -> None:
    with run_content_server(tmp_path / "a") as server, run_content_server(tmp_path / "b") as other:
        first = identity(server)
        assert identity(other) != first
        server.kill()
    with run_content_server(tmp_path / "a") as server:
        assert identity(server) == first


def test_its_processes_have_one_id(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server, run_worker(server) as worker:
        assert identity(worker) == identity(server)


def test_an_id_that_a_power_cut_has_emptied_is_made_anew(tmp_path: Path) -> None:
    with run_content_server(tmp_path) as server:
        first = identity(server)
    (server.directory / "id").write_bytes(b"")
    with run_content_server(tmp_path) as server:
        second = identity(server)
        assert second != first
    with run_content_server(tmp_path) as server:
        assert identity(server) == second
