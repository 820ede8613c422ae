"""What the kernel reads ahead on a lazy mount: how much a single read moves, how fast many are.

For each size of the kernel's read-ahead, on a node whose disk holds nothing of the layer:

    one read   bytes of payload that `clipfs mount` and one read of 53,248 bytes move: by pread(2)
               in the middle and at the start of a file, and through mmap(2) in the middle
    in order   a file of 247 MB from its first byte to its last: from the content cache (near), from
               one that is 1 ms further away (far), and with the layer whole on the disk

Every read is the first of a fresh mount. `clipfs.mount.device` has the size that was chosen; the
others are set from outside after the mount. Seconds are of the reader's process.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench.latency import further_away
from bench.measure import Bar, Figure, ratio, save, table, version
from bench.one_layer import FILE_BYTES, FILE_OFFSET, NAME, RANGE_BYTES, one_layer
from bench.ranges import forget_payloads
from clipfs.mount.device import MAX_READ_AHEAD_BYTES
from clipfs.mount.mountinfo import mounts_at
from tests.support import images
from tests.support.machine import CLIPFS
from tests.support.node import Node, alive, content_cache
from tests.support.registry import run_registry
from tests.support.wait import wait_for

ROUNDS = 5
SIZES_KB = (128, 256, 512, 1024)
CHOSEN_KB = MAX_READ_AHEAD_BYTES >> 10
LATENCY_S = 0.001
MOST_MOVED_BYTES = 512 << 10
LEAST_OF_NEAR = 0.6
"""Of the speed from the content cache, for one that is 1 ms further away: what is ahead is to
hide that.
"""

STEP_BYTES = 1 << 20


@dataclass(slots=True)
class Bench:
    """A node by name of what is before its content cache, and what was measured so far."""

    image: str
    mountpoint: Path
    nodes: dict[str, Node]
    figures: dict[str, Figure] = field(default_factory=dict)
    moved: dict[str, dict[int, int]] = field(default_factory=dict)

    @contextmanager
    def mounted(self, node: Node, size_kb: int) -> Iterator[Path]:
        """The file, in a fresh mount with this read-ahead."""
        found = node.mount(self.image, self.mountpoint, "--log-level", "info", "--front", "fuse")
        device = mounts_at(self.mountpoint)[-1].device
        if size_kb != CHOSEN_KB:
            Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(size_kb))
        try:
            yield self.mountpoint / NAME
        finally:
            node.unmount(self.mountpoint)
            wait_for(partial(_is_gone, found["pid"]))

    def move(self, size_kb: int) -> None:
        """What one read moves, of each kind."""
        node = self.nodes["near"]
        for kind, read in READS.items():
            forget_payloads(node)
            before = node.json("stats")["content_cache"]["bytes"]
            with self.mounted(node, size_kb) as file:
                read(file)
                moved = node.json("stats")["content_cache"]["bytes"] - before
            self.moved.setdefault(kind, {})[size_kb] = moved

    def stream(self, name: str, size_kb: int) -> None:
        """Read the file in order, its layer on the disk or not."""
        node = self.nodes["near" if name == "disk" else name]
        if name != "disk":
            forget_payloads(node)
        with self.mounted(node, size_kb) as file:
            key = f"{name} {size_kb}"
            self.figures.setdefault(key, Figure(key)).seconds.append(_in_order(file))

    def speed(self, name: str, size_kb: int) -> float:
        """MB/s in the median."""
        return FILE_BYTES / 1e6 / self.figures[f"{name} {size_kb}"].median_s


def _in_order(file: Path) -> float:
    buffer = memoryview(bytearray(STEP_BYTES))
    total = 0
    begin = time.perf_counter()
    with file.open("rb", buffering=0) as raw:
        while count := raw.readinto(buffer):
            total += count
    seconds = time.perf_counter() - begin
    assert total == FILE_BYTES
    return seconds


def _pread(file: Path, offset: int) -> None:
    with file.open("rb", buffering=0) as raw:
        assert len(os.pread(raw.fileno(), RANGE_BYTES, offset)) == RANGE_BYTES


def _mmap(file: Path) -> None:
    with file.open("rb") as raw, mmap.mmap(raw.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert len(mapped[FILE_OFFSET : FILE_OFFSET + RANGE_BYTES]) == RANGE_BYTES


READS: dict[str, Callable[[Path], None]] = {
    "pread, middle": partial(_pread, offset=FILE_OFFSET),
    "pread, start": partial(_pread, offset=0),
    "mmap, middle": _mmap,
}
STREAMS = ("near", "far", "disk")


def _is_gone(pid: int) -> bool:
    return not alive(pid)


@contextmanager
def prepared(home: Path) -> Iterator[Bench]:
    """A registry, a content cache that has the layer, and nodes that have its index."""
    with ExitStack() as stack:
        registry = stack.enter_context(run_registry(home / "registry"))
        url, token_file, _ = stack.enter_context(content_cache(home / "content"))
        relay = stack.enter_context(further_away(urlsplit(url).netloc, LATENCY_S))
        (home / "key").write_text("the cluster's key\n")
        nodes = {}
        for name, where in (("near", url), ("far", f"http://{relay}")):
            options = ["--plain-http", registry.address, "--index-key-file", str(home / "key"),
                       "--content-cache", where,
                       "--content-cache-token-file", str(token_file)]  # fmt: skip # pairs
            nodes[name] = Node(home / name, options)
            stack.callback(nodes[name].close)
        image = images.push(one_layer(), registry.address, "one-layer:1")
        for node in nodes.values():  # the first pays for both
            node.json("index", image)
        yield Bench(image, home / "mnt", nodes)


def run(rounds: int = ROUNDS) -> list[Bar]:
    """Measure, print, save; the bars."""
    with tempfile.TemporaryDirectory(prefix="clip-bench-") as folder, prepared(Path(folder)) as it:
        sizes = sorted({*SIZES_KB, CHOSEN_KB})
        for size_kb in sizes:
            it.move(size_kb)
        for number in range(rounds):
            for name in STREAMS:
                for size_kb in sizes if number % 2 else reversed(sizes):
                    it.stream(name, size_kb)
    bars = [
        Bar(f"one read moves, {kind}", moved[CHOSEN_KB], str(moved[CHOSEN_KB]),
            most=MOST_MOVED_BYTES + 1)
        for kind, moved in it.moved.items()
    ]  # fmt: skip # a bar and its limit stay together
    share = it.speed("far", CHOSEN_KB) / it.speed("near", CHOSEN_KB)
    bars.append(ratio("in order, far against near", share, least=LEAST_OF_NEAR))
    print(f"read-ahead of {CHOSEN_KB} KiB was chosen; {rounds} rounds, order alternating; "
          f"{version(CLIPFS, '--version')}; Linux {os.uname().release}\n")  # fmt: skip # one line
    head = ["read-ahead", *it.moved, *(f"{name} MB/s" for name in STREAMS)]
    rows = [
        [f"{size_kb} KiB", *(str(moved[size_kb]) for moved in it.moved.values()),
         *(f"{it.speed(name, size_kb):.0f}" for name in STREAMS)]
        for size_kb in sizes
    ]  # fmt: skip # bytes, then speeds
    print(table(head, rows) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("read_ahead", it.figures.values(), bars, moved=it.moved)
    return bars


if __name__ == "__main__":
    run()
