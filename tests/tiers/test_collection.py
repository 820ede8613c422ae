"""Making room in an object store: which layers go, and that they go from a real S3 server."""

import itertools
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from clipfs.tiers.content.bucket import Listed
from clipfs.tiers.content.bucket_opening import open_object_store
from clipfs.tiers.content.collection import collect, layers_of, to_remove
from clipfs.tiers.content.obstore_bucket import ObstoreBucket
from clipfs.tiers.content.store import Progress
from tests.support.machine import CLIPFS
from tests.support.s3_server import READER, S3Server

PREFIXES = itertools.count()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (f"sha256_{letter * 64}" for letter in "abc")


ELSES = ["claims/2026/policy.pdf", "claims/clock-tower.jpg", "somebody/elses"]


def listed(key: str, size: int, *, minutes: int) -> Listed:
    return Listed(key, size, BEGIN + timedelta(minutes=minutes))


STORED = [
    listed(f"{A}/000000", 80, minutes=2),
    listed(f"{A}.v1.toc", 10, minutes=2),
    listed(f"{B}.raw/000000", 80, minutes=1),
    listed(f"{B}.raw/000001", 40, minutes=1),
    listed(f"{B}.raw.v1.toc", 10, minutes=9),
    listed(f"{C}/000000", 50, minutes=3),
    listed(f"{C}.v1.origin.{'0' * 64}", 5, minutes=3),
    listed(f"claims/{C}.v1.toc", 1000, minutes=0),
    listed("somebody/elses", 1000, minutes=0),
]


@pytest.mark.parametrize(
    ("max_bytes", "young", "gone"),
    [
        pytest.param(275, 60, [], id="all fits"),
        pytest.param(274, 60, [A], id="the one stored longest ago"),
        pytest.param(150, 60, [A, C], id="as many as needed"),
        pytest.param(0, 60, [A, C, f"{B}.raw"], id="all; a repair counts as a store"),
        pytest.param(0, 5, [A, C], id="none that is young"),
    ],
)
def test_whole_layers_go_oldest_first(max_bytes: int, young: int, gone: list[str]) -> None:
    layers = layers_of(STORED)
    going = to_remove(layers, max_bytes, BEGIN + timedelta(minutes=young))
    assert [layer.cache_key for layer in going] == gone


def test_a_layer_is_all_of_its_objects() -> None:
    sizes = {layer.cache_key: (layer.bytes, len(layer.keys)) for layer in layers_of(STORED)}
    assert sizes == {A: (90, 2), f"{B}.raw": (130, 3), C: (55, 2)}


@pytest.fixture
def url(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    s3_server.use(monkeypatch)
    return f"s3://shared/collection/{abs(hash(request.node.name))}"


async def filled(url: str) -> None:
    async with open_object_store(url) as store:
        for key in (A, B):
            await store.put(f"{key}/000000", bytes(1000))
            await store.put(f"{key}.v1.toc", b"index")
        for key in ELSES:
            await store.put(key, b"stays")
        for key in (A, f"{A}.v1.toc", f"{B}.raw", f"{B}.raw.v1.toc"):
            await store.claim(key, "holder", Progress())
    for name in ("clock", "trial"):  # which a killed process has left
        ObstoreBucket(url).create(f"claims/{name}-{'0' * 16}", b"now")


async def test_a_real_store_is_emptied_of_ours_and_of_nothing_else(url: str) -> None:
    await filled(url)
    found = await trio.to_thread.run_sync(lambda: collect(url, 0, spared_s=-60))
    assert {layer.cache_key for layer in found.removed} == {A, B}
    assert (found.kept_bytes, found.excess_bytes) == (0, 0)
    assert sorted(one.key for one in ObstoreBucket(url).listed()) == ELSES


async def test_the_command_spares_what_was_stored_just_now(url: str) -> None:
    await filled(url)
    command = [CLIPFS, "cache", "collect", "--content-cache", url, "--max-bytes", "1000", "--json"]
    done = await trio.run_process(command, capture_stdout=True)
    assert json.loads(done.stdout) == {"removed": [], "bytes": 2010, "excess_bytes": 1010}


@pytest.mark.parametrize(
    ("url", "options", "code", "words"),
    [
        pytest.param("s3://nowhere", ["--max-bytes", "1"], 1, "no bucket nowhere", id="no bucket"),
        pytest.param("http://x", ["--max-bytes", "1"], 1, "s3://bucket/prefix", id="http"),
        pytest.param("s3://shared", [], 2, "--max-bytes", id="no limit"),
        pytest.param("s3://shared", ["--min-free", "1"], 2, "--max-bytes", id="other limit"),
        pytest.param(
            "s3://shared",
            ["--max-bytes", "1", "--ca-file", "/none"],
            1,
            "CA file /none",
            id="no CA",
        ),
    ],
)
def test_what_cannot_be_collected_is_said(
    url: str, options: list[str], code: int, words: str, s3_server: S3Server
) -> None:
    done = _collect(url, options, s3_server.environment())
    assert done.returncode == code
    assert words in done.stderr


def test_credentials_that_may_not_write_are_refused(s3_server: S3Server) -> None:
    done = _collect("s3://shared/x", ["--max-bytes", "0"], s3_server.environment(READER))
    assert done.returncode == 1
    assert "may not list, write and delete" in done.stderr


def test_a_store_behind_a_private_ca_is_collected_by_that_ca(
    secure_s3: tuple[S3Server, Path],
) -> None:
    server, ca = secure_s3
    environment = server.environment() | {"AWS_ENDPOINT_URL": server.secure_endpoint}
    options = ["--max-bytes", "1Mi", "--json"]
    unknown = _collect("s3://secure/collection", options, environment)
    assert unknown.returncode == 1
    assert "its certificate is not trusted (UnknownIssuer); see --ca-file" in unknown.stderr
    done = _collect("s3://secure/collection", [*options, "--ca-file", str(ca)], environment)
    assert json.loads(done.stdout) == {"removed": [], "bytes": 0, "excess_bytes": 0}


def test_a_ca_file_is_of_use_for_a_store_alone(tmp_path: Path) -> None:
    command = [CLIPFS, "cache", "collect", "--root", str(tmp_path), "--ca-file", "/none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--ca-file goes with --content-cache" in done.stderr


def _collect(
    url: str, options: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [CLIPFS, "cache", "collect", "--content-cache", url, *options]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
