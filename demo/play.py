"""The acts, in their order: set up, publish, read from each tier, compare, unpublish, report."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from demo import checks, image, reads, services
from demo.checks import require
from demo.image import Image
from demo.kubelet import Volume
from demo.reads import Reads
from demo.services import ContentCache, Node, Registry
from demo.show import NodeRow, Show, TierRow
from demo.stage import Stage, wait_for

STORE_S = 60
FILL_S = 60

PYTHON = ("/usr/bin/python3", "-I", "-B", "-c")
PROGRAM = """\
import sys
sys.path.insert(0, "/app")
import rich.table
print("Python", sys.version.split()[0])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who plays. Nodes A and B share a content cache; C has none, for the registry's own row."""

    registry: Registry
    cache: ContentCache
    a: Node
    b: Node
    c: Node
    image: Image
    reference: str

    @property
    def attributes(self) -> dict[str, str]:
        """The pods' `volumeAttributes`."""
        return {"image": self.reference}


def play(stage: Stage, show: Show) -> None:
    """All acts; NotAsPromised at the first thing that is not as it should be."""
    cast = set_up(stage, show)
    on_a, row_a = publish_on_a(cast, show)
    asked_before = len(cast.registry.reads())
    on_b, rows_b = publish_on_b(cast, show)
    lazy = checks.is_lazy(cast.b.payload_on_disk(), cast.image)
    asked = checks.no_layer_was_asked_for(cast.registry.reads()[asked_before:], cast.image)
    tiers = read_from_each_tier(cast, on_b, show)
    same_a, same_b = compare(cast, on_a, on_b, show)
    show.tree(on_b.path, f"{cast.reference}, as the pod on node B sees it")
    read_only = checks.is_read_only(on_b.path)
    unpublish(cast, on_a, on_b)
    megabytes = cast.image.payload_bytes / 1e6
    show.nodes([row_a, *rows_b], f"One image of {megabytes:,.0f} MB on two nodes, bytes by tier")
    show.reads(tiers, reads.READ_BYTES)
    show.checks(
        [
            ("Node A's volume", same_a),
            ("Node B's volume", same_b),
            ("Node B is lazy", f"{lazy} while the program ran"),
            ("The registry's log", f"node B: {asked}; every byte was read"),
            ("Read-only", read_only),
            ("Unpublished", "no mount, no server and no folder of the volumes left"),
        ]
    )


def set_up(stage: Stage, show: Show) -> Cast:
    with show.step("three nodes") as step:
        registry, cache = services.start_registry(stage), services.start_content_cache(stage)
        key = services.new_index_key(stage)
        a, b = (
            services.start_node(stage, name, registry, key, cache.options)
            for name in ("node A", "node B")
        )
        c = services.start_node(stage, "node C", registry, key)
        step.result = "clip-csi node, docker-registry and a content cache are up"
    with show.step("a real image") as step:
        built = image.build(stage.folder / "layers")
        reference = image.push(built, registry.address, "demo/python-and-gcc:1")
        step.result = (
            f"{len(built.layers)} layers of Debian packages, {len(built.files):,} files, "
            f"{built.payload_bytes / 1e6:,.0f} MB"
        )
    return Cast(registry=registry, cache=cache, a=a, b=b, c=c, image=built, reference=reference)


def publish_on_a(cast: Cast, show: Show) -> tuple[Volume, NodeRow]:
    """The first publish of the cluster; returns when the content cache has the layers."""
    with show.step("node A: publish") as step:
        volume = cast.a.kubelet.publish("pod-a", cast.attributes)
        moved = cast.a.moved()
        step.result = f"{moved['registry'] / 1e6:,.0f} MB from the registry, indexed, mounted"
    checks.every_layer_was_asked_for(cast.registry.reads(), cast.image)
    with show.step("node A: store") as step:
        wait_for(
            lambda: not cast.a.stats()["storing"],
            "the content cache has every layer",
            within_s=STORE_S,
        )
        step.result = "the layers are in the content cache; the pod did not wait"
    return volume, _row("A", "publish: the cluster's first", volume.seconds, moved)


def publish_on_b(cast: Cast, show: Show) -> tuple[Volume, list[NodeRow]]:
    """A publish on another node, and a program that runs from the volume."""
    with show.step("node B: publish") as step:
        volume = cast.b.kubelet.publish("pod-b", cast.attributes)
        mounted = cast.b.moved()
        step.result = "indexes from the content cache, mounted, no layer yet"
    with show.step("node B: run a program") as step:
        begin = time.perf_counter()
        said = cast.b.stage.run("chroot", str(volume.path), *PYTHON, PROGRAM)
        seconds = time.perf_counter() - begin
        ran = cast.b.moved()
        step.result = f"{said.strip()} runs from the volume"
    return volume, [
        _row("B", "publish", volume.seconds, mounted),
        _row("B", "its pod runs Python, imports rich", seconds, ran),
    ]


def read_from_each_tier(cast: Cast, on_b: Volume, show: Show) -> list[TierRow]:
    """The same ranges of the image's largest file: from each tier in turn."""
    layer, path, size = cast.image.largest_file()
    starts = reads.offsets(size)
    expected = reads.ranges_of(Path("/", path), starts)
    file = on_b.path / path
    with show.step("read from each tier") as step:
        reads.make_cold(cast.cache.data)
        far = reads.read_each(cast.b, file, starts)
        checks.came_from("content_cache", far, expected)
        reads.make_cold(cast.b.root / "partial", file)
        near = reads.read_each(cast.b, file, starts)
        checks.came_from("disk", near, expected)
        warm = reads.read_each(cast.b, file, starts)
        checks.came_from("page cache", warm, expected)
        registry, fill_s = read_from_registry(cast, layer.digest, path, starts[-1])
        checks.came_from("registry", registry, expected[-1:])
        step.result = f"/{path}, {size / 1e6:,.0f} MB"
    fill = f"whole layer, {layer.payload_bytes / 1e6:,.0f} MB, after {fill_s:.2f} s"
    about = {
        "registry": f"node C: index, no layer, no content cache; {fill}",
        "content cache": f"node B: first read; median of {len(starts)} ranges",
        "node disk": "node B: the same ranges, page caches dropped",
        "(page cache)": "node B: once more; the kernel asks nobody",
    }
    done = [(registry, "registry"), (far, "content_cache"), (near, "disk"), (warm, "disk")]
    return [
        TierRow(tier=name, seconds=each.median_s, bytes=each.bytes_a_read(tier), what=what)
        for (name, what), (each, tier) in zip(about.items(), done, strict=True)
    ]


def read_from_registry(cast: Cast, layer: str, path: str, start: int) -> tuple[Reads, float]:
    """A read on a node that has the indexes alone; the seconds until it has the whole layer."""
    for index in (cast.a.root / "index").glob("sha256_*"):
        shutil.copy2(index, cast.c.root / "index")
    reads.make_cold(cast.registry.data)
    on_c = cast.c.kubelet.publish("pod-c", cast.attributes)
    require(not cast.c.moved()["registry"], "node C has the index, and downloaded all the same")
    begin = time.perf_counter()
    seconds, data = reads.timed_read(on_c.path / path, start)
    whole = cast.c.root / "cache" / layer.replace(":", "_")
    wait_for(whole.exists, "node C has the whole layer", within_s=FILL_S)
    fill_s = time.perf_counter() - begin
    moved = cast.c.moved()
    cast.c.kubelet.unpublish(on_c)
    return Reads(seconds=[seconds], moved=moved, data=[data]), fill_s


def compare(cast: Cast, on_a: Volume, on_b: Volume, show: Show) -> tuple[str, str]:
    """Every file on both nodes with the image's source; node B asks no registry for it."""
    asked_before = len(cast.registry.reads())
    with show.step("compare every byte") as step:
        same = [checks.same_files(one.path, cast.image.files) for one in (on_a, on_b)]
        step.result = "node A, node B and the files that the image was made of"
    asked = cast.registry.reads()[asked_before:]
    require(not asked, f"the registry was asked while every byte was read: {asked[:3]}")
    require(not cast.b.moved()["registry"], "node B downloaded from the registry")
    return same[0], same[1]


def unpublish(cast: Cast, on_a: Volume, on_b: Volume) -> None:
    for node, volume in ((cast.a, on_a), (cast.b, on_b)):
        node.kubelet.unpublish(volume)
        require(not os.path.lexists(volume.path), f"{volume.path} is there after unpublish")
        require(not node.stats()["mounts"], f"{node.name} has a server after unpublish")
    mounts = cast.a.stage.mounts()
    require(not mounts, f"mounts after unpublish: {mounts}")


def _row(node: str, action: str, seconds: float, moved: dict[str, int]) -> NodeRow:
    return NodeRow(
        node=node,
        action=action,
        seconds=seconds,
        registry=moved["registry"],
        content_cache=moved["content_cache"],
    )
