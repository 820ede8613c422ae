"""What `clipfs mount` tells its starter through a pipe of how far it is."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipfs.cli.progress import TOLD_EVERY_S, Teller
from clipfs.layer.job import PassProgress
from tests.cli.test_progress import Clock, at, layer
from tests.support.content import run_content_server
from tests.support.driver import cleaned_up
from tests.support.images import Packed, push, write_layout
from tests.support.images import layer as pack
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def lines(reading: int) -> list[dict[str, Any]]:
    """What is in the pipe now."""
    os.set_blocking(reading, False)
    return [json.loads(line) for line in os.read(reading, 1 << 16).splitlines()]


def test_a_layer_is_told_of_a_few_times_a_second_and_of_its_end() -> None:
    clock = Clock()
    with pipe() as (reading, writing):
        teller = Teller(writing, clock)
        for step in range(10):
            teller.on_progress(layer(1, 1000), at(step * 100))
            clock.now += TOLD_EVERY_S / 2
        teller.on_progress(layer(1, 1000), at(1000))
        found = [line.get("done_bytes", 0) for line in lines(reading)]
    assert found == [0, 200, 400, 600, 800, 1000]


def test_a_line_says_whose_pass_it_is_and_in_which_phase() -> None:
    with pipe() as (reading, writing):
        teller = Teller(writing, Clock())
        theirs = PassProgress(downloaded_bytes=5, payload_bytes=9, is_anothers=True)
        teller.on_progress(layer(1, 10), theirs)
        proof = PassProgress(downloaded_bytes=3, payload_bytes=0, is_proof=True)
        teller.on_progress(layer(3, 10), proof)
        teller.begin("bring")
        teller.on_progress(layer(2, 10), at(6))
        teller.on_brought(layer(2, 10), 12, 24)
        teller.begin("mount", {"registry": 7})
        found = lines(reading)
    assert found == [
        {"phase": "index", "digest": layer(1, 10).digest, "done_bytes": 5, "total_bytes": 10,
         "is_anothers": True},
        {"phase": "prove", "digest": layer(3, 10).digest, "done_bytes": 3, "total_bytes": 10},
        {"phase": "bring"},
        {"phase": "bring", "digest": layer(2, 10).digest, "done_bytes": 12, "total_bytes": 24},
        {"phase": "mount", "bytes_by_tier": {"registry": 7}},
    ]  # fmt: skip


def test_a_pipe_that_is_full_or_closed_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    teller = Teller(writing, Clock())
    for number in range(1 << 13):
        teller.on_progress(layer(number, 10), at(10))
    whole = os.read(reading, 1 << 20)
    assert 1 << 14 < len(whole) <= 1 << 16
    os.close(reading)
    teller.begin("mount")
    os.close(writing)


@pytest.fixture
def image(tmp_path: Path, registry: RegistryServer) -> str:
    packed: list[Packed] = []
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/file-{number}").write_bytes(os.urandom(1 << 20))
        packed.append(pack(tmp_path / f"{number}", tmp_path / f"{number}.tar"))
    write_layout(tmp_path / "oci", packed)
    return push(tmp_path / "oci", registry.address, "progress:1")


@needs_fuse
@pytest.mark.parametrize("front", ["fuse", "erofs"])
def test_a_mount_tells_of_its_layers_its_phases_and_its_bytes(
    front: str, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    with cleaned_up(tmp_path), pipe() as (reading, writing):
        done = subprocess.run(
            [CLIPFS, "mount", "--json", "--root", tmp_path / "root", "--plain-http",
             registry.address, "--front", front, "--progress-fd", str(writing),
             image, tmp_path / "tree"],
            pass_fds=[writing], stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        told = lines(reading)
        unmount = [CLIPFS, "unmount", "--root", str(tmp_path / "root"), str(tmp_path / "tree")]
        subprocess.run(unmount, check=True)
    layers = json.loads(done.stdout)["layers"]
    last = {line["digest"]: line for line in told if "digest" in line}
    assert {d: line["done_bytes"] for d, line in last.items()} == {
        one["digest"]: one["size"] for one in layers
    }
    phases = [line["phase"] for line in told if "digest" not in line]
    assert phases == ["merge", *(["bring"] if front == "erofs" else []), "mount"]
    assert told[-1]["bytes_by_tier"]["registry"] == sum(one["size"] for one in layers)


@needs_fuse
def test_what_is_brought_from_the_content_cache_is_told_too(
    image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("the cluster's key\n")
    with (
        cleaned_up(tmp_path),
        pipe() as (reading, writing),
        run_content_server(tmp_path / "cache") as cache,
    ):
        shared = ["--content-cache", cache.url,
                  "--content-cache-token-file", str(tmp_path / "cache/token"),
                  "--index-key-file", str(tmp_path / "key"),
                  "--plain-http", registry.address]  # fmt: skip # as typed by hand
        Node(tmp_path / "A", shared).json("index", image)
        done = subprocess.run(
            [CLIPFS, "mount", "--json", "--root", tmp_path / "root", *shared, "--front", "erofs",
             "--progress-fd", str(writing), image, tmp_path / "tree"],
            pass_fds=[writing], stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        told = lines(reading)
        unmount = [CLIPFS, "unmount", "--root", str(tmp_path / "root"), str(tmp_path / "tree")]
        subprocess.run(unmount, check=True)
    layers = json.loads(done.stdout)["layers"]
    last = {line["digest"]: line for line in told if "digest" in line}
    assert {d: (line["phase"], line["done_bytes"]) for d, line in last.items()} == {
        one["digest"]: ("bring", one["payload_size"]) for one in layers
    }
    assert told[-1]["bytes_by_tier"]["content_cache"] > sum(o["payload_size"] for o in layers) // 2
    assert told[-1]["bytes_by_tier"]["registry"] == 0
