"""What a cluster of ten nodes moves for a thousand container starts, with and without tier 2.

A start is what a new pod costs its node: NodePublishVolume at the driver, as the kubelet calls it;
the driver asks the registry whether the pod may have the image, and binds the node's one mount
of that image, which the first start makes; then pread(2) of one range in the volume. A pod
is unpublished once the next one has read, as in a rolling update. Where pods are `apart`, each is
gone before the next one comes, and every start mounts anew.

Node A makes its first start alone; once its layer is stored, all nodes start pods side by side.

Bytes are the servers': all that the registry has answered, as a relay before it sees it, and all
that the content cache's replicas have, by their /metrics; heads, manifests and indexes included.
Each read is compared with what was built.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Bar, Figure, save, table, version
from bench.plays import FIXED, HEAD, NODES, TABLES, Moved, Play, row
from bench.stores import REPLICAS
from bench.ten_megabytes import COMPRESSED_BYTES, NAME, TenMegabytes, ten_megabytes
from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.driver import Driver, cleaned_up, run_driver
from tests.support.machine import CLIPFS
from tests.support.node import Node
from tests.support.registry import run_registry
from tests.support.throttle import Throttle, throttle
from tests.support.wait import wait_for

RANGE_BYTES = 53_248
PAGE_BYTES = 4096
MOST_BYTES = 14.5e6
"""What clip (Go) says of its own: registry and content cache together, of a 10 MB layer."""

_SENT, _RECEIVED = (f"clip_content_cache_{name}_bytes_total" for name in ("sent", "received"))


@dataclass(slots=True, kw_only=True)
class Cluster:
    """Servers and nodes of one play."""

    play: Play
    image: str
    built: TenMegabytes
    registry: Throttle
    replicas: list[ContentServer]
    drivers: list[Driver]
    roots: list[Path]
    starts: Figure = field(init=False)
    first_starts: Figure = field(init=False)

    def __post_init__(self) -> None:
        self.starts = Figure(f"start, {self.play.title}")
        self.first_starts = Figure(f"a node's first start, {self.play.title}")

    def run(self) -> Moved:
        before = self._counted()
        begin = time.perf_counter()
        self._start_pods(0, range(1))
        wait_for(lambda: not Node(self.roots[0]).json("stats")["storing"])
        with ThreadPoolExecutor(NODES) as side_by_side:
            list(side_by_side.map(self._start_pods, range(NODES), map(self._left, range(NODES))))
        seconds = time.perf_counter() - begin
        if self.play.tier_2 and not self.play.moving:
            self._assert_lazy()
        registry, sent, received = (
            now - then for now, then in zip(self._counted(), before, strict=True)
        )
        return Moved(
            registry=registry, content_cache=sent, uploaded=received, seconds=seconds,
            indexes=self._index_bytes(), starts=self.starts, first_starts=self.first_starts,
        )  # fmt: skip # what belongs together

    def _left(self, node: int) -> range:
        return range(0 if node else 1, self.play.starts)

    def _start_pods(self, node: int, numbers: range) -> None:
        for number in numbers:
            if self.play.apart and number:
                self.drivers[node].unpublish(f"pod-{number - 1}")
            seconds = self._start(node, number)
            (self.starts if number else self.first_starts).seconds.append(seconds)
            if not self.play.apart and number:
                self.drivers[node].unpublish(f"pod-{number - 1}")

    def _start(self, node: int, number: int) -> float:
        """Seconds until a new pod has read its range."""
        offset = self._offset(node, number)
        begin = time.perf_counter()
        volume = self.drivers[node].publish(f"pod-{number}", self.image)
        found = pread(volume / NAME, offset)
        seconds = time.perf_counter() - begin
        assert found == pread(self.built.data, offset), f"node {node}: wrong bytes at {offset}"
        return seconds

    def _offset(self, node: int, number: int) -> int:
        """Spread over the file; of pages, as a program's own reads are."""
        place, of = (node, NODES)
        if self.play.moving:
            place, of = (number * NODES + node, NODES * self.play.starts)
        room = self.built.data.stat().st_size - RANGE_BYTES
        return room * place // of // PAGE_BYTES * PAGE_BYTES

    def _assert_lazy(self) -> None:
        """All nodes but A hold less than a tenth of the layer."""
        for root in self.roots[1:]:
            kept = sum(path.stat().st_blocks * 512 for folder in ("cache", "partial")
                       for path in (root / folder).iterdir())  # fmt: skip # one thought
            assert 0 < kept < self.built.data.stat().st_size / 10, f"{root} holds {kept} bytes"

    def _counted(self) -> tuple[int, int, int]:
        """Answered by the registry; sent and received by the content cache."""
        said = [metrics(one) for one in self.replicas]
        return (
            self.registry.passed,
            sum(one[_SENT] for one in said),
            sum(one[_RECEIVED] for one in said),
        )

    def _index_bytes(self) -> int:
        """Every node has got it but node A."""
        found = {
            path.name: path.stat().st_size
            for one in self.replicas
            for kind in ("toc", "erofs")  # of layers, and images' own
            for path in one.objects.rglob(f"*.{kind}")
        }
        return sum(found.values()) * (NODES - 1)


def pread(path: Path, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, RANGE_BYTES, offset)
    finally:
        os.close(fd)


def metrics(server: ContentServer) -> dict[str, int]:
    """The server's counters without labels."""
    lines = server.ask("GET", "/metrics", token=None).body.decode().splitlines()
    pairs = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: int(float(value)) for name, value in pairs}


@contextmanager
def cluster(home: Path, play: Play) -> Iterator[Cluster]:
    """A registry that has the image, a content cache if play has one, and a driver a node."""
    with ExitStack() as stack:
        registry = stack.enter_context(run_registry(home / "registry"))
        built = ten_megabytes()
        images.push(built.layout, registry.address, "ten:1")
        counted = stack.enter_context(throttle(registry.address))
        (home / "key").write_text("the cluster's key\n")
        options = ["--plain-http", counted.address, "--index-key-file", str(home / "key")]
        replicas = []
        for number in range(REPLICAS if play.tier_2 else 0):
            folder = home / f"replica-{number}"
            replicas.append(stack.enter_context(run_content_server(folder)))
            token = folder / "token"
            options += ["--content-cache", replicas[-1].url]
            options += ["--content-cache-token-file", str(token)]
        stack.enter_context(cleaned_up(home))
        roots = [home / f"node-{number}" / "images" for number in range(NODES)]
        drivers = [
            stack.enter_context(
                run_driver(root.parent, [*options, "--log-level", "info"], root=root)
            )
            for root in roots
        ]
        yield Cluster(
            play=play, image=f"{counted.address}/ten:1", built=built, registry=counted,
            replicas=replicas, drivers=drivers, roots=roots,
        )  # fmt: skip # what belongs together


def played(play: Play) -> Moved:
    with (
        tempfile.TemporaryDirectory(prefix="clip-bench-") as folder,
        cluster(Path(folder), play) as it,
    ):
        moved = it.run()
        for driver in it.drivers:
            driver.unpublish(f"pod-{play.starts - 1}")
        return moved


def run() -> list[Bar]:
    """Measure, print, save; the bars."""
    moved = {play: played(play) for plays in TABLES.values() for play in plays}
    print(f"{NODES} nodes, a layer of {COMPRESSED_BYTES:,} bytes compressed, {RANGE_BYTES:,} bytes "
          f"read at each start, {REPLICAS} replicas")  # fmt: skip # as it is printed
    print(f"{version('docker-registry', '--version')}; {version(CLIPFS, '--version')}\n")
    for words, plays in TABLES.items():
        print(f"{words}\n" + table(HEAD, [row(play, moved[play]) for play in plays]) + "\n")
    bars = [
        Bar(f"{play.words}: registry and content cache", moved[play].together,
            f"{moved[play].together:,} bytes", most=MOST_BYTES)
        for play in FIXED if play.tier_2
    ]  # fmt: skip # one a line
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    figures = [figure for one in moved.values() for figure in (one.first_starts, one.starts)]
    counted = {play.title: moved[play].counted for play in moved}
    save("cluster", figures, bars, moved=counted)
    return bars


if __name__ == "__main__":
    sys.exit(0 if all(bar.is_met for bar in run()) else 1)
