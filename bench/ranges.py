"""One range of a large layer from each of the three tiers, in one run.

    registry        mounted from its index, cache/ emptied, no content cache; beside it the
                    seconds until cache/ has the whole layer
    content cache   mounted from its index, on a node whose disk holds nothing of the layer
    disk            the layer complete in cache/

Every read is the first of a fresh mount. The page cache is dropped for none of them: what
the registry, the content cache and cache/ hold comes from memory. What is timed is pread(2)
alone, in the reader's process.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Bar, Figure, human, ratio, save, table, version
from bench.one_layer import (
    FILE_OFFSET,
    NAME,
    PAYLOAD_BYTES,
    RANGE_BYTES,
    RANGE_OFFSET,
    one_layer,
)
from tests.support import images
from tests.support.machine import CLIPFS
from tests.support.node import Node, alive, content_cache
from tests.support.registry import run_registry
from tests.support.wait import wait_for

ROUNDS = 7
TIERS = ("registry", "content_cache", "disk")
FILL = "whole fill"
GO_S = {"registry": 2.5, "content_cache": 0.05, "disk": 0.005}
"""What clip (Go) takes for the same range."""


@dataclass(slots=True)
class Bench:
    """A node for each tier, all with the layer's index, and what was measured so far.

    moved  for each round of a tier the bytes that every tier of that node moved
    """

    image: str
    mountpoint: Path
    nodes: dict[str, Node]
    figures: dict[str, Figure] = field(
        default_factory=lambda: {name: Figure(name) for name in (*TIERS, FILL)}
    )
    moved: dict[str, list[dict[str, int]]] = field(
        default_factory=lambda: {name: [] for name in TIERS}
    )
    digests: set[str] = field(default_factory=set)

    def read(self, tier: str) -> None:
        """One round of a tier: mount afresh, read the range, unmount."""
        node = self.nodes[tier]
        if tier != "disk":
            forget_payloads(node)
        mounted = node.mount(self.image, self.mountpoint, "--log-level", "info", "--front", "fuse")
        (layer,) = mounted["layers"]
        assert layer["payload_size"] == PAYLOAD_BYTES
        assert layer["complete"] is (tier == "disk")
        before = node.json("stats")
        begin = time.perf_counter()
        seconds, data = timed_read(self.mountpoint / NAME)
        if tier == "registry":
            wait_for((node.root / "cache" / layer["cache_key"]).exists, within_s=120)
            self.figures[FILL].seconds.append(time.perf_counter() - begin)
        after = node.json("stats")
        self.figures[tier].seconds.append(seconds)
        self.digests.add(hashlib.sha256(data).hexdigest())
        self.moved[tier].append({name: after[name]["bytes"] - before[name]["bytes"]
                                 for name in TIERS})  # fmt: skip
        node.unmount(self.mountpoint)
        wait_for(lambda: not alive(mounted["pid"]))


def timed_read(path: Path) -> tuple[float, bytes]:
    """Seconds of the pread(2) of the range, and what it gave."""
    fd = os.open(path, os.O_RDONLY)
    try:
        begin = time.perf_counter()
        data = os.pread(fd, RANGE_BYTES, FILE_OFFSET)
        seconds = time.perf_counter() - begin
    finally:
        os.close(fd)
    assert len(data) == RANGE_BYTES
    return seconds, data


def forget_payloads(node: Node) -> None:
    """Empty a node's disk but for its indexes."""
    for folder in ("cache", "partial"):
        for path in (node.root / folder).iterdir():
            path.unlink()


@contextmanager
def prepared(home: Path) -> Iterator[Bench]:
    """A registry, a content cache that has the layer, and a node for each tier."""
    with ExitStack() as stack:
        registry = stack.enter_context(run_registry(home / "registry"))
        url, token_file, _ = stack.enter_context(content_cache(home / "content"))
        (home / "key").write_text("the cluster's key\n")
        alone = ["--plain-http", registry.address, "--index-key-file", str(home / "key")]
        shared = [*alone, "--content-cache", url, "--content-cache-token-file", str(token_file)]
        nodes = {
            "registry": Node(home / "R", alone),
            "content_cache": Node(home / "B", shared),
            "disk": Node(home / "A", shared),
        }
        for node in nodes.values():
            stack.callback(node.close)
        image = images.push(one_layer(), registry.address, "one-layer:1")
        for tier in ("disk", "registry", "content_cache"):  # node A pays for node B
            nodes[tier].json("index", image)
        yield Bench(image, home / "mnt", nodes)


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as folder, prepared(Path(folder)) as it:
        for number in range(rounds):
            for tier in TIERS if number % 2 else reversed(TIERS):
                it.read(tier)
    assert len(it.digests) == 1, "the tiers gave different bytes"
    median_s = {name: figure.median_s for name, figure in it.figures.items()}
    bars = [ratio("content cache faster than the whole layer's fill",
                  median_s[FILL] / median_s["content_cache"], least=50)]  # fmt: skip # one a line
    for tier, most_s in GO_S.items():
        words = f"{tier} faster than clip (Go), {human(most_s)}"
        bars.append(Bar(words, median_s[tier], human(median_s[tier]), most=most_s))
    print(f"{RANGE_BYTES} bytes at {RANGE_OFFSET} of a layer of {PAYLOAD_BYTES} bytes, "
          f"{rounds} rounds, order alternating")  # fmt: skip # as it is printed
    print(f"{version('docker-registry', '--version')}; {version(CLIPFS, '--version')}\n")
    rows = [[*figure.row(), moved_words(it.moved.get(name))] for name, figure in it.figures.items()]
    print(table(["tier", "median", "least", "most", "bytes moved on the node"], rows) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("ranges", it.figures.values(), bars, moved=it.moved)
    return bars


def moved_words(rounds: list[dict[str, int]] | None) -> str:
    """The most that any round moved, by tier."""
    if rounds is None:
        return "until cache/ has the whole layer"
    most = {name: max(one[name] for one in rounds) for name in TIERS}
    return ", ".join(f"{name} {count}" for name, count in most.items() if count)


if __name__ == "__main__":
    run()
