"""Nodes that start the same cold image at the same moment: one of them downloads each layer.

The tests in which a node is killed wait for its claims to lapse, by the real clock: they run at
the same time, on clusters of their own, and share one content cache of each kind.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from clipfs.tiers.content.bucket_opening import open_object_store
from clipfs.tiers.content.replicas import Replicas
from clipfs.tiers.content.store import ContentStore, Progress
from tests.support import images
from tests.support.at_once import Endings, at_once
from tests.support.content import TOKEN
from tests.support.counting_registry import CountingRegistry, counting_registry
from tests.support.images import Packed
from tests.support.machine import CLIPFS, needs_fuse
from tests.support.node import Node, content_cache
from tests.support.registry import RegistryServer
from tests.support.relay import OnPiece, relay
from tests.support.s3_server import run_s3_server
from tests.support.samples import Sample, make_sample
from tests.support.wait import wait_for

pytestmark = needs_fuse

KINDS = ("http", "s3")
NODES = 10
MIB = (12, 5, 3)
SLOW = 6 << 20
"""Bytes a second of a download: so that all nodes meet it."""

VERY_SLOW = 3 << 17
"""So that a download is still under way when those who wait for it have told how far it is."""


OpenStore = Callable[[], AbstractAsyncContextManager[ContentStore]]


@dataclass(frozen=True)
class Cluster:
    """Nodes with roots of their own, one content cache, and one registry that counts."""

    nodes: list[Node]
    registry: CountingRegistry
    image: str
    layers: list[Sample]
    open_store: OpenStore

    @property
    def image_bytes(self) -> int:
        return sum(one.layer.size for one in self.layers)

    @property
    def layer_bytes_sent(self) -> int:
        return sum(self.registry.sent[one.layer.digest] for one in self.layers)

    @property
    def indexes_bytes(self) -> int:
        tocs = (path for node in self.nodes for path in (node.root / "index").glob("*.toc"))
        return sum(path.stat().st_size for path in tocs)

    @property
    def pages_bytes(self) -> int:
        return sum(node.json("stats")["content_cache"]["bytes"] for node in self.nodes)

    @property
    def unheard(self) -> int:
        """Nodes that no content cache answered in time, and that wait for nobody then: ten that
        start at once on two cores, with other tests, may be late themselves."""
        said = (log_of(node).read_text() for node in self.nodes)
        return sum("content cache unavailable" in one for one in said)

    def start(self, node: Node, *words: str) -> subprocess.Popen[str]:
        """The command in the background; it logs to the root's neighbour."""
        command = [CLIPFS, *words, "--root", str(node.root), *node.options]
        with log_of(node).open("w") as log:
            return subprocess.Popen(
                [*command, "--json", "--log-format", "json"],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip


def log_of(node: Node) -> Path:
    return node.root.with_suffix(".log")


@dataclass(frozen=True)
class Tier2:
    """One that the module's clusters share, each with layers of its own."""

    options: list[str]
    open_store: OpenStore


@pytest.fixture(scope="module")
def tier2s(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tier2]]:
    """One of each kind."""
    home = tmp_path_factory.mktemp("tier2")
    with ExitStack() as stack:
        url, token_file, _ = stack.enter_context(content_cache(home / "cc"))
        server = stack.enter_context(run_s3_server(home / "s3"))
        server.use(stack.enter_context(pytest.MonkeyPatch.context()))
        server.make_bucket("shared")
        s3_url = "s3://shared/cluster"
        yield {
            "http": Tier2(
                ["--content-cache", url, "--content-cache-token-file", str(token_file)],
                partial(Replicas.open, [url], token=TOKEN),
            ),
            "s3": Tier2(["--content-cache", s3_url], partial(open_object_store, s3_url)),
        }


@contextmanager
def cluster_of(tier2: Tier2, registry: RegistryServer, home: Path) -> Iterator[Cluster]:
    seed = int.from_bytes(os.urandom(4), "little")
    layers = [
        make_sample(home / f"{mib}.tar", content_bytes=mib << 20, seed=seed + mib, name=f"{mib}")
        for mib in MIB
    ]
    images.write_layout(home / "oci", [Packed(one.tar) for one in layers], codec="plain")
    name = f"cold-{seed}:1"
    images.push(home / "oci", registry.address, name)
    (home / "key").write_text("the cluster's key\n")
    with counting_registry(registry.address, bytes_per_s=SLOW) as counting:
        options = ["--plain-http", counting.address, "--index-key-file", str(home / "key")]
        nodes = [Node(home / f"node-{n}", [*options, *tier2.options]) for n in range(NODES)]
        try:
            yield Cluster(nodes, counting, f"{counting.address}/{name}", layers, tier2.open_store)
        finally:
            for node in nodes:
                node.close()


def place(node: Node) -> Path:
    """Where the node mounts the image."""
    return node.root.with_suffix(".mounted")


def assert_whole(cluster: Cluster, node: Node) -> None:
    """Each layer is one file of so many MiB."""
    for layer, mib in zip(cluster.layers, MIB, strict=True):
        content = (place(node) / str(mib)).read_bytes()
        assert len(content) == mib << 20
        assert content in layer.payload


def wait_until_stored(node: Node) -> None:
    wait_for(lambda: not node.json("stats")["storing"], within_s=60)


async def are_claims_free(cluster: Cluster) -> bool:
    """Whether nobody holds a claim on any layer any more."""
    async with cluster.open_store() as store:
        for layer in cluster.layers:
            if (await store.claim(layer.key, "late.1", Progress())).holder != "late.1":
                return False
            await store.release(layer.key, "late.1")
    return True


def succeeded(process: subprocess.Popen[str], node: Node) -> None:
    process.communicate(timeout=120)
    assert process.returncode == 0, log_of(node).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_nodes_that_mount_a_cold_image_one_downloads_each_layer(
    kind: str, tier2s: dict[str, Tier2], registry: RegistryServer, tmp_path: Path
) -> None:
    """And each reads all of it as soon as it is mounted."""
    with cluster_of(tier2s[kind], registry, tmp_path) as cluster:
        mount_and_read_everywhere(cluster)


def mount_and_read_everywhere(cluster: Cluster) -> None:
    mounts = [
        cluster.start(node, "mount", cluster.image, str(place(node)), "--front", "auto")
        for node in cluster.nodes
    ]
    for node, mount in zip(cluster.nodes, mounts, strict=True):
        node.mounted.append(place(node))
        succeeded(mount, node)
        assert_whole(cluster, node)
    for node in cluster.nodes:
        wait_until_stored(node)
    print(f"{cluster.layer_bytes_sent} bytes of layers for an image of {cluster.image_bytes}, "
          f"{cluster.indexes_bytes} of indexes on all nodes, "
          f"{cluster.pages_bytes} of pages from tier 2")  # fmt: skip
    downloads = 1 + cluster.unheard
    assert cluster.image_bytes <= cluster.layer_bytes_sent <= 1.05 * downloads * cluster.image_bytes
    wait_for(lambda: trio.run(are_claims_free, cluster))


@pytest.fixture(scope="module")
def endings(
    request: pytest.FixtureRequest, tier2s: dict[str, Tier2], registry: RegistryServer
) -> Iterator[Endings]:
    def run(body: Callable[[Cluster], None], kind: str, home: Path) -> None:
        with cluster_of(tier2s[kind], registry, home) as cluster:
            body(cluster)

    holder = test_a_holder_that_is_killed_is_replaced_by_one_node_of_those_who_saw_its_progress
    storing = (
        test_a_node_that_is_killed_before_its_pages_are_stored_is_replaced_by_one_that_reads_them
    )
    bodies = {f"{holder.__name__}[{kind}]": partial(run, kill_a_holder, kind) for kind in KINDS}
    bodies[storing.__name__] = partial(run, kill_a_node_that_stores, "http")
    with at_once(request, bodies, most=len(bodies)) as ends:
        yield ends


@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_that_is_killed_is_replaced_by_one_node_of_those_who_saw_its_progress(
    kind: str, request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def kill_a_holder(cluster: Cluster) -> None:
    cluster.registry.bytes_per_s = VERY_SLOW
    first, *others = cluster.nodes
    holder = cluster.start(first, "index", cluster.image)
    wait_for(lambda: cluster.layer_bytes_sent == cluster.image_bytes, within_s=30)
    waiting = [cluster.start(node, "index", cluster.image) for node in others]
    wait_for(lambda: any(has_seen_progress(node) for node in others), within_s=60)
    assert holder.poll() is None
    holder.kill()
    holder.communicate()
    cluster.registry.bytes_per_s = SLOW
    for node, process in zip(others, waiting, strict=True):
        succeeded(process, node)
    print(f"{cluster.layer_bytes_sent} bytes of layers for an image of {cluster.image_bytes}")
    assert cluster.image_bytes < cluster.layer_bytes_sent <= 2.05 * cluster.image_bytes


def test_a_node_that_is_killed_before_its_pages_are_stored_is_replaced_by_one_that_reads_them(
    request: pytest.FixtureRequest, endings: Endings
) -> None:
    endings[request.node.name].result()


def kill_a_node_that_stores(cluster: Cluster) -> None:
    cluster.registry.bytes_per_s = None
    first, *others = cluster.nodes[:4]
    at = first.options.index("--content-cache") + 1
    with relay(first.options[at].removeprefix("http://"), slow_uploads) as address:
        first.options = [*first.options[:at], f"http://{address}", *first.options[at + 1 :]]
        storing = first.mount(cluster.image, place(first), "--front", "fuse")["pid"]
        for node in others:
            node.mount(cluster.image, place(node), "--front", "fuse")
        assert cluster.layer_bytes_sent == cluster.image_bytes
        paths = [place(node) / str(mib) for node in others for mib in MIB]
        reads = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) for path in paths]
        assert first.json("stats")["storing"]
        os.kill(storing, signal.SIGKILL)
        assert [read.wait(100) for read in reads] == [0] * len(reads)
    for node in others:
        assert_whole(cluster, node)
    print(f"{cluster.layer_bytes_sent} bytes of layers for an image of {cluster.image_bytes}")
    assert cluster.image_bytes < cluster.layer_bytes_sent <= 2.05 * cluster.image_bytes


def slow_uploads() -> OnPiece:
    """Of large objects: what is small, an index or a claim, is not held up."""
    passed = 0

    def on_piece(piece: bytes, is_answer: bool) -> None:
        nonlocal passed
        passed = 0 if is_answer else passed + len(piece)
        if passed > 1 << 20:
            time.sleep(0.05)

    return on_piece


def has_seen_progress(node: Node) -> bool:
    """Whether the node has told how far another one is."""
    if not log_of(node).exists():
        return False
    written = log_of(node).read_text().splitlines(keepends=True)
    lines = [json.loads(line) for line in written if line.endswith("\n")]
    events = [line["event"] for line in lines]
    told = [line for line in lines if line["event"] == "layer is being downloaded"]
    assert "OCI CACHE MISS - downloading and decompressing layer from registry" not in events
    return any(line["bytes_read"] > 0 for line in told)
