"""Background fill with the installed commands, real mounts and a real content cache.

One module, though long: its tests share an image and a cache whose requests can be held.
"""

import json
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clipfs.layer.layout import Layout
from clipfs.mount import counters, records
from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.held_proxy import HeldProxy, held_proxy
from tests.support.machine import needs_fuse
from tests.support.node import ROOM, Node, alive, kill
from tests.support.ports import free_port
from tests.support.processes import descendants
from tests.support.registry import RegistryServer
from tests.support.small_disk import needs_loop, small_disk
from tests.support.throttle import throttle
from tests.support.wait import wait_for

pytestmark = needs_fuse

BIG_BYTES, TWO_BYTES = 20 << 20, 3 << 20
PIECE_BYTES, REQUESTS_AT_ONCE = 512 << 10, 4
READ_BYTES = 53_248
LOG_BYTES = 100 << 10
"""What debug lines of the fill, and the disk's own records of its blocks, may take."""

UNLIMITED = ("--front", "fuse", "--background-fill", "touched")
TOUCHED = (*UNLIMITED, *ROOM)


@dataclass(frozen=True)
class Built:
    """Three layers, which hold `big`, `two` and `three`; `other` is an image that nobody has."""

    image: str
    other: str
    big: bytes
    two: bytes


@pytest.fixture(scope="module")
def built(registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("image")
    big, two = random.Random(1).randbytes(BIG_BYTES), random.Random(2).randbytes(TWO_BYTES)
    packed = []
    for name, data in (("big", big), ("two", two), ("three", b"three\n" * 1000)):
        (home / f"of {name}").mkdir()
        (home / f"of {name}" / name).write_bytes(data)
        packed.append(images.layer(home / f"of {name}", home / f"{name}.tar"))
    images.write_layout(home / "oci", packed)
    (home / "of other").mkdir()
    (home / "of other/other").write_bytes(random.Random(3).randbytes(1 << 20))
    images.write_layout(home / "other", [images.layer(home / "of other", home / "other.tar")])
    return Built(
        image=images.push(home / "oci", registry.address, "background:1"),
        other=images.push(home / "other", registry.address, "background-other:1"),
        big=big,
        two=two,
    )


@dataclass
class Cluster:
    """Node A has stored the image in the content cache, which node B reaches by `proxy`."""

    b: Node
    proxy: HeldProxy
    cache: ContentServer
    layers: list[str]
    layer_bytes: list[int]
    image: str

    def mount(self, where: Path, *options: str) -> int:
        found = self.b.mount(self.image, where, *options)
        assert found["front"] == "fuse"
        return int(found["pid"])

    def fill(self) -> dict[str, Any]:
        """As `clipfs stats` shows it, without its start."""
        layout = Layout(self.b.root)
        (mount,) = records.living(layout)
        return counters.fill_of(layout, mount.pid)

    def until(self, *, state: str, layers: int) -> None:
        wait_for(
            lambda: (fill := self.fill())["state"] == state and fill["layers"] == layers,
            within_s=60,
        )

    def whole(self) -> set[str]:
        return {path.name for path in (self.b.root / "cache").iterdir()}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def cluster(
    built: Built, registry: RegistryServer, tmp_path: Path, stack: ExitStack
) -> Iterator[Cluster]:
    (tmp_path / "key").write_text("the cluster's key\n")
    cache = stack.enter_context(run_content_server(tmp_path / "cc", port=free_port()))
    proxy = stack.enter_context(held_proxy(cache.port))
    shared = ["--content-cache-token-file", str(tmp_path / "cc/token"),
              "--index-key-file", str(tmp_path / "key"),
              "--plain-http", registry.address]  # fmt: skip
    found = Node(tmp_path / "A", [*shared, "--content-cache", cache.url]).json("index", built.image)
    b = Node(tmp_path / "B", [*shared, "--content-cache", proxy.url])
    try:
        yield Cluster(
            b=b,
            proxy=proxy,
            cache=cache,
            layers=[row["cache_key"] for row in found["layers"]],
            layer_bytes=[row["payload_size"] for row in found["layers"]],
            image=built.image,
        )
    finally:
        b.close()


def read(path: Path, at: int = 0) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), READ_BYTES, at)


def test_off_is_the_default_and_moves_what_is_read(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    pid = cluster.mount(tmp_path / "m", "--front", "fuse")
    assert read(tmp_path / "m/big", 9 << 20) == built.big[9 << 20 :][:READ_BYTES]
    assert cluster.fill() == {"state": "off", "layers": 0, "bytes": 0}
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not alive(pid))
    moved = sum(len(part) for _, part in cluster.proxy.asked)
    assert READ_BYTES <= moved <= 512 << 10
    assert cluster.b.json("stats")["content_cache"]["bytes"] == moved


def test_touched_fills_the_touched_layers_alone_and_all_fills_all(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    big, two, three = cluster.layers
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    assert read(tmp_path / "m/two", 1 << 20) == built.two[1 << 20 :][:READ_BYTES]
    cluster.until(state="idle", layers=1)
    assert (cluster.whole(), cluster.proxy.layers()) == ({two}, {two})
    read(tmp_path / "m/big")
    cluster.until(state="idle", layers=2)
    assert (cluster.whole(), cluster.proxy.layers()) == ({two, big}, {two, big})
    stats = cluster.b.json("stats")
    assert stats["registry"] == {"reads": 0, "bytes": 0}
    assert stats["content_cache"]["bytes"] == sum(cluster.layer_bytes[:2])
    assert stats["mounts"][0]["background_fill"] == cluster.fill()
    in_words = cluster.b.run("stats", "--root", str(cluster.b.root)).stdout
    assert "background fill: idle, 2 layers whole" in in_words
    assert (tmp_path / "m/big").read_bytes() == built.big
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not alive(pid))
    assert list((cluster.b.root / "partial").iterdir()) == []
    assert [path.name for path in (cluster.b.root / "run").rglob("*.fill")] == []

    pid = cluster.mount(tmp_path / "m", "--front", "auto", "--background-fill", "all", *ROOM)
    cluster.until(state="idle", layers=1)
    assert cluster.whole() == {big, two, three}
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not alive(pid))
    assert cluster.b.mount(cluster.image, tmp_path / "m", "--front", "auto")["front"] == "erofs"
    assert (tmp_path / "m/two").read_bytes() == built.two
    (mount,) = cluster.b.json("stats")["mounts"]
    assert mount["background_fill"]["state"] == "off"


def test_a_read_passes_the_fill_whose_requests_wait_for_it(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    big, two, _ = cluster.layers
    cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=8)
    read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    of_the_fill = len(cluster.proxy.asked)
    reader = os.fork()
    if reader == 0:
        os._exit(0 if read(tmp_path / "m/two") == built.two[:READ_BYTES] else 1)
    wait_for(lambda: cluster.proxy.waiting > REQUESTS_AT_ONCE)
    brought = cluster.fill()["bytes"]
    cluster.proxy.let_go(big)
    arrived = brought + REQUESTS_AT_ONCE * PIECE_BYTES
    wait_for(lambda: cluster.fill()["bytes"] == arrived)
    shown = cluster.b.json("stats")["mounts"][0]["background_fill"]  # takes longer than a rest
    assert shown == {"state": "filling", "layers": 0, "bytes": arrived}
    assert read(tmp_path / "m/big") == built.big[:READ_BYTES]
    assert {key for key, _ in cluster.proxy.asked[of_the_fill:]} == {two}
    cluster.proxy.let_go()
    assert os.waitpid(reader, 0)[1] == 0
    cluster.until(state="idle", layers=2)
    assert (tmp_path / "m/big").read_bytes() == built.big


def test_what_a_killed_server_has_brought_the_next_mount_goes_on_from(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=16)
    read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    kill(pid)
    cluster.proxy.let_go()
    cluster.b.unmount(tmp_path / "m")
    first = cluster.b.json("stats")["content_cache"]["bytes"]
    assert first >= 12 * PIECE_BYTES
    assert cluster.whole() == set()
    assert (cluster.b.root / "partial" / cluster.layers[0]).exists()
    cluster.mount(tmp_path / "m", *TOUCHED)
    read(tmp_path / "m/big")
    cluster.until(state="idle", layers=1)
    assert cluster.whole() == {cluster.layers[0]}
    assert (tmp_path / "m/big").read_bytes() == built.big
    second = cluster.b.json("stats")["mounts"][0]["content_cache"]["bytes"]
    assert second == cluster.layer_bytes[0] - first, "what was received was on the disk"
    assert [path.name for path in (cluster.b.root / "run").rglob("*.fill")] == []


def test_unmount_during_the_fill_waits_for_none_of_its_answers(
    cluster: Cluster, tmp_path: Path
) -> None:
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=8)
    read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not alive(pid))
    assert cluster.proxy.waiting == REQUESTS_AT_ONCE, "they are still held"
    assert [path.name for path in (cluster.b.root / "run").rglob("*.fill")] == []
    assert list((cluster.b.root / "run/mounts").iterdir()) == []
    key = cluster.layers[0]
    partial = {path.name for path in (cluster.b.root / "partial").iterdir()}
    assert partial == {key, f"{key}.chunks"}


def test_the_fill_stops_at_the_limit_of_the_disk_and_nobody_else_does(
    cluster: Cluster, built: Built, registry: RegistryServer, tmp_path: Path
) -> None:
    cluster.mount(tmp_path / "m", *TOUCHED, "--max-bytes", "8Mi")
    read(tmp_path / "m/big")
    cluster.until(state="no_room", layers=0)
    assert (7 << 20) < cluster.b.json("cache list")["bytes"] <= (8 << 20)
    assert (tmp_path / "m/big").read_bytes() == built.big


def test_where_the_free_space_is_wanted_nothing_is_filled(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    cluster.mount(tmp_path / "m", *TOUCHED, "--min-free", "99.9999%")
    assert read(tmp_path / "m/two") == built.two[:READ_BYTES]
    cluster.until(state="no_room", layers=0)
    assert cluster.fill()["bytes"] == 0
    assert read(tmp_path / "m/big", 9 << 20) == built.big[9 << 20 :][:READ_BYTES]


@needs_loop
def test_without_limits_a_tenth_of_the_disk_stays_free_for_others(
    cluster: Cluster, built: Built, tmp_path: Path, stack: ExitStack
) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "small", mebibytes=20))
    cluster.b.root = disk.folder / "root"
    cluster.mount(tmp_path / "m", *UNLIMITED)
    read(tmp_path / "m/big")
    cluster.until(state="no_room", layers=0)
    found = os.statvfs(disk.folder)
    reserve_bytes = found.f_blocks * found.f_frsize // 10 - LOG_BYTES
    assert found.f_bavail * found.f_frsize >= reserve_bytes
    assert cluster.fill()["bytes"] > 8 << 20
    assert read(tmp_path / "m/two") == built.two[:READ_BYTES]
    cluster.b.mount(built.other, tmp_path / "other", "--front", "fuse")
    assert len((tmp_path / "other/other").read_bytes()) == 1 << 20
    cluster.b.unmount(tmp_path / "other")
    cluster.b.unmount(tmp_path / "m")


@needs_loop
def test_a_disk_that_others_have_filled_is_waited_for(
    cluster: Cluster, built: Built, tmp_path: Path, stack: ExitStack
) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "small", mebibytes=40))
    cluster.b.root = disk.folder / "root"
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=8)
    read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    disk.fill()
    cluster.proxy.let_go()
    cluster.until(state="no_room", layers=0)
    assert read(tmp_path / "m/two") == built.two[:READ_BYTES]
    disk.free()
    cluster.until(state="idle", layers=2)
    assert (tmp_path / "m/big").read_bytes() == built.big
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not alive(pid))


def test_two_servers_of_a_node_bring_a_layer_once(cluster: Cluster, tmp_path: Path) -> None:
    layout = Layout(cluster.b.root)
    cluster.proxy.hold(after=8)
    words = ("--front", "fuse", "--background-fill", "all", *ROOM)
    pids = [cluster.mount(tmp_path / "one", *words)]
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    pids.append(cluster.mount(tmp_path / "other", *words))
    wait_for(lambda: counters.fill_of(layout, pids[1])["state"] == "waiting")
    cluster.proxy.let_go()
    wait_for(
        lambda: all(counters.fill_of(layout, pid)["state"] == "idle" for pid in pids),
        within_s=60,
    )
    assert cluster.whole() == set(cluster.layers)
    assert sum(len(part) for _, part in cluster.proxy.asked) == sum(cluster.layer_bytes)
    assert sum(counters.fill_of(layout, pid)["layers"] for pid in pids) == 3


def test_a_content_cache_that_goes_away_in_the_middle_is_waited_for(
    cluster: Cluster, built: Built, registry: RegistryServer, tmp_path: Path
) -> None:
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=8)
    first = read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    before = registry.blob_reads()
    cluster.cache.kill()
    cluster.proxy.let_go()
    cluster.until(state="waiting", layers=0)
    assert read(tmp_path / "m/big") == first == built.big[:READ_BYTES]
    with run_content_server(tmp_path / "cc", port=cluster.cache.port):
        cluster.until(state="idle", layers=1)
    asked = registry.blob_reads()[len(before) :]
    assert asked == [], "nothing was downloaded for what was away"
    events = [line["event"] for line in cluster.b.log(pid)]
    assert events.count("background fill waits") == 1
    assert events.count("background fill goes on") == 1
    assert (tmp_path / "m/big").read_bytes() == built.big


def test_a_layer_that_the_content_cache_has_lost_is_downloaded_and_stored_there_again(
    cluster: Cluster, built: Built, tmp_path: Path
) -> None:
    key, pages = cluster.layers[0], cluster.cache.objects / cluster.layers[0]
    pid = cluster.mount(tmp_path / "m", *TOUCHED)
    cluster.proxy.hold(after=8)
    read(tmp_path / "m/big")
    wait_for(lambda: cluster.proxy.waiting == REQUESTS_AT_ONCE)
    stored = sorted(os.listdir(pages))
    for name in stored[1:]:
        (pages / name).unlink()
    cluster.proxy.let_go()
    cluster.until(state="idle", layers=1)
    assert cluster.whole() == {key}
    wait_for(lambda: not cluster.b.json("stats")["storing"])
    assert sorted(os.listdir(pages)) == stored
    downloads = [line for line in cluster.b.log(pid) if line["event"].startswith("OCI CACHE MISS")]
    assert [line["cache_key"] for line in downloads] == [key]


def test_unmount_ends_a_download_that_nobody_waits_for(
    cluster: Cluster, registry: RegistryServer, tmp_path: Path, stack: ExitStack
) -> None:
    slow = stack.enter_context(throttle(registry.address))
    cluster.b.options = [*cluster.b.options, "--plain-http", slow.address]
    cluster.image = cluster.image.replace(registry.address, slow.address)
    cluster.b.json("index", cluster.image)  # another host: its layers come once, as proof
    before = cluster.b.json("stats")["registry"]["bytes"]
    big = cluster.layers[0]
    for page in (cluster.cache.objects / big).iterdir():
        page.unlink()
    slow.bytes_per_s = 100_000
    pid = cluster.mount(tmp_path / "m", "--front", "fuse", "--background-fill", "all", *ROOM)
    wait_for(lambda: cluster.b.json("stats")["registry"]["bytes"] > before)
    workers = descendants(pid)
    assert workers
    assert read(tmp_path / "m/two"), "nor does a read wait for it"
    cluster.b.unmount(tmp_path / "m")
    wait_for(lambda: not any(map(alive, [pid, *workers])))
    assert [path.name for path in (cluster.b.root / "run").rglob("*.fill")] == []
    assert {path.name for path in (cluster.b.root / "partial").iterdir()} >= {big, f"{big}.chunks"}


def test_a_layer_that_another_node_brings_is_not_downloaded_too(
    cluster: Cluster, built: Built, registry: RegistryServer, tmp_path: Path
) -> None:
    big = cluster.layers[0]
    pages = {path: path.read_bytes() for path in (cluster.cache.objects / big).iterdir()}
    for path in pages:
        path.unlink()
    wish = json.dumps({"holder": "another.node"}).encode()
    assert cluster.cache.ask("PUT", f"/v1/claims/{big}", wish).status == 201
    before = len(registry.blob_reads())
    cluster.mount(tmp_path / "m", "--front", "fuse", "--background-fill", "all", *ROOM)
    wait_for(lambda: len([key for key, _ in cluster.proxy.asked if key == big]) > 8)
    for path, data in pages.items():
        stored = cluster.cache.ask("PUT", f"{big}/{path.name}", data)
        assert stored.status == 201
    cluster.until(state="idle", layers=3)
    layer = big.replace("_", ":")
    assert [path for path in registry.blob_reads()[before:] if path.endswith(layer)] == []
    assert (tmp_path / "m/big").read_bytes() == built.big
