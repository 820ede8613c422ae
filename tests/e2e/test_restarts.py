"""Pods read volumes while what serves them restarts, one after the other; the table of failure
modes in docs/operations.md is what is found here.

Not here: the end of the driver's process alone (`test_volumes`), the API server
(`test_control_plane`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import MOUNTS, Product, pids
from tests.e2e.readers import Read, Reader, readers, reading, wrong
from tests.e2e.registries import COMING, registry_there
from tests.e2e.sample import RandomImage, random_image
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DATA_BYTES = 64 << 20
DEAD = {"ENOTCONN", "ECONNABORTED"}
"""What a lazy volume's reader gets without a server; the latter if its request was under way."""

SERVER_ENDS = ("server", "container", "pod")
"""Of the image, of the driver, of the driver: outages that servers do not survive."""

CONTAINERS = {"whole": {"main": "None"}, "lazy": {"main": "None", "follows": "HostToContainer"}}
"""Of pods that read, and how they see later mounts of their volumes."""


def data_of(home: Path) -> bytes:
    """Of the one file of `random_image(home)`."""
    return (home / "0.d/0/data").read_bytes()


@dataclass(slots=True)
class Outages:
    """When each began, and when all was well again; by name."""

    times: dict[str, tuple[float, float]] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        begin_s = time.time()
        yield
        self.times[name] = (begin_s, time.time())

    def during(self, name: str, reader: Reader) -> list[Read]:
        """Of files that were opened then."""
        begin_s, end_s = self.times[name]
        return [
            one for one in reader.reads() if begin_s <= one.begin_s <= end_s and not one.is_held
        ]

    def errors(self, name: str, reader: Reader) -> set[str]:
        """Those that reads met; AssertionError if there were no reads."""
        found = self.during(name, reader)
        assert found, f"{reader.container} did not read during {name}"
        return {one.error for one in found} - {""}

    def show(self, readers: Sequence[Reader]) -> None:
        for name in self.times:
            for reader in readers:
                found = self.during(name, reader)
                failed = [one for one in found if one.error]
                slowest = max(
                    (one.end_s - one.begin_s for one in found if not one.error), default=0
                )
                said = f"{len(found):4} reads, the slowest {slowest:.1f} s"
                if failed:
                    lasted = failed[-1].end_s - failed[0].begin_s
                    kinds = ", ".join(sorted({one.error for one in failed}))
                    said += f"; {len(failed)} failed for {lasted:.1f} s: {kinds}"
                print(f"{name:12} {reader.notes.parts[5][:4]} {reader.container:8} {said}")


@dataclass(slots=True, kw_only=True)
class Scene:
    """Pods on n1 that read: one whose image is whole there, one whose image is elsewhere."""

    product: Product
    pods: Pods
    home: Path
    images: dict[str, RandomImage]
    whole: Reader
    lazy: Reader
    follows: Reader
    outages: Outages = field(default_factory=Outages)

    @property
    def cluster(self) -> Cluster:
        return self.product.cluster

    @property
    def readers(self) -> tuple[Reader, ...]:
        return self.whole, self.lazy, self.follows

    @contextmanager
    def outage(self, name: str) -> Iterator[None]:
        """At the end of the block pods that were made in it come up."""
        with self.outages.of(name):
            yield
            self.cluster.wait_ready(*self._made(name))

    def make_pods(self, outage: str) -> None:
        """Of both images, and of one that nobody has; they come up when they can."""
        self.images[outage] = random_image(self.home / outage)
        kinds = ("whole", "lazy", outage)
        for name, kind in zip(self._made(outage), kinds, strict=True):
            image = self.cluster.push(self.images[kind].layout, f"restarts-{kind}:1")
            self.pods.make(pod(name, "n1", inline(image)))

    def _made(self, outage: str) -> list[str]:
        return [f"{outage}-{kind}" for kind in ("whole", "lazy", "new")]

    def servers(self) -> set[int]:
        """Of the lazy image on n1."""
        place = MOUNTS + self.images["lazy"].digest.replace(":", "_")
        return {*pids(self.cluster.on("n1", "pgrep", "-f", place, check=False))}

    def is_whole(self) -> bool:
        """Whether n1 has all of the lazy image on its disk."""
        return self.product.disk_bytes("n1", self.images["lazy"].layers) >= DATA_BYTES

    def wait_served(self) -> None:
        """Until the lazy volume, whose server is dead, reads where new mounts are followed."""
        now_s = time.time()
        wait_for(lambda: self.follows.is_well(now_s), within_s=120)

    def wait_read(self) -> None:
        """Until each container has opened and read a file that it had not begun by now."""
        now_s = time.time()
        for one in self.readers:
            wait_for(partial(one.is_well, now_s), within_s=60)


@pytest.fixture
def scene(product: Product, cluster: Cluster, pods: Pods, tmp_path: Path) -> Scene:
    images = {}
    for kind, first_node in (("whole", "n1"), ("lazy", "n2")):
        images[kind] = random_image(tmp_path / kind, layer_bytes=DATA_BYTES)
        image = cluster.push(images[kind].layout, f"restarts-{kind}:1")
        pods.run_and_store(image, first_node)
        pods.delete("first")
        pods.run(
            reading(
                kind,
                "n1",
                inline(image),
                image=product.image("n1"),
                data_bytes=DATA_BYTES,
                pause_s=0.1 if kind == "whole" else 0.8,
                containers=CONTAINERS[kind],
            )
        )
    mounts = product.stats("n1")["mounts"]
    assert {"whole" in one["image"]: one["front"] for one in mounts} == {
        True: "erofs",
        False: "fuse",
    }
    (whole,) = readers(cluster, "whole", "n1")
    lazy, follows = readers(cluster, "lazy", "n1")
    return Scene(
        product=product,
        pods=pods,
        home=tmp_path,
        images=images,
        whole=whole,
        lazy=lazy,
        follows=follows,
    )


def restart_node_program(scene: Scene, program: str) -> None:
    with scene.outage(program):
        with scene.cluster.without("n1", program):
            scene.make_pods(program)
            scene.wait_read()
        scene.wait_read()


def end_server(scene: Scene) -> None:
    with scene.outages.of("server"):
        (server,) = scene.servers()
        with scene.product.frozen_driver("n1"):
            begin_s = time.time()
            scene.cluster.on("n1", "kill", "-9", str(server))
            wait_for(lambda: scene.follows.has_failed(begin_s))
        scene.wait_served()


def end_container(scene: Scene) -> None:
    """PID 1 of the driver's container is killed, and so all that run in it."""
    driver, servers = scene.product.driver("n1"), scene.servers()
    first = scene.cluster.on("n1", "ps", "-o", "ppid=", "-p", str(driver)).strip()
    with scene.outage("container"):
        scene.cluster.on("n1", "kill", "-9", first)
        scene.make_pods("container")
        wait_for(lambda: not servers & scene.servers())
        scene.wait_served()


def end_drivers_pod(scene: Scene) -> None:
    servers = scene.servers()
    with scene.outage("pod"):
        scene.product.delete_driver("n1")
        scene.make_pods("pod")
        assert not servers & scene.servers()
        scene.product.wait_driver("n1")
        scene.wait_served()


def end_content_cache(scene: Scene, name: str, *pods: str) -> None:
    count = len(scene.product.content_cache_pods())
    with scene.outage(name):
        scene.product.delete_content_cache(*pods)
        scene.make_pods(name)
        scene.wait_read()
        scene.product.wait_content_cache(count)
        scene.wait_read()


def test_complete_images_survive_all_restarts_and_lazy_ones_have_a_server_again_soon(
    scene: Scene,
) -> None:
    for program in ("kubelet", "containerd"):
        restart_node_program(scene, program)
    assert not [one for one in scene.lazy.reads() if one.error]
    end_server(scene)
    assert not scene.lazy.is_well(0), "who does not follow new mounts sees the dead one"
    scene.lazy.start_again()
    scene.wait_read()
    for end in (end_container, end_drivers_pod):
        end(scene)
    scene.lazy.start_again()
    scene.wait_read()
    one, *others = scene.product.content_cache_pods()
    if others:
        end_content_cache(scene, "replica", one)
    assert not scene.is_whole(), "only the content cache was asked for the lazy image"
    end_content_cache(scene, "replicas", *scene.product.content_cache_pods())
    wait_for(scene.is_whole)  # which only the registry can make it

    scene.outages.show(scene.readers)
    for name in scene.outages.times:
        assert scene.outages.errors(name, scene.whole) == set()
        errors = scene.outages.errors(name, scene.follows)
        assert errors <= (DEAD if name in SERVER_ENDS else set()), name
    for reader, kind in zip(scene.readers, ("whole", "lazy", "lazy"), strict=True):
        assert wrong(reader.reads(), data_of(scene.home / kind)) == []
    assert [one for one in scene.whole.reads() if one.error] == []


def test_a_pod_starts_without_its_registry_if_its_node_has_the_image_and_else_once_it_is_there(
    cluster: Cluster, pods: Pods, tmp_path: Path
) -> None:
    made = {kind: random_image(tmp_path / kind) for kind in ("known", "new")}
    known, new = (
        cluster.push(one.layout, f"coming-{kind}:1").replace(cluster.registry.address, COMING)
        for kind, one in made.items()
    )
    with registry_there():
        pods.run_and_store(known, "n1")
        pods.delete("first")
    pods.make(pod("cached", "n2", inline(known)), pod("nowhere", "n1", inline(new)))
    pods.run(pod("whole", "n1", inline(known)))
    assert cluster.exec("whole", "sha256sum", "/image/0/data").split()[0] == made["known"].data[0]
    for name, image in (("cached", known), ("nowhere", new)):
        line = (
            f"Warning FailedMount .* code = Unavailable desc = {image}: no answer from {COMING}.*"
        )
        print(cluster.wait_event(line, name, of="kubelet", within_s=120))
    with registry_there():
        cluster.wait_ready("cached", "nowhere")
        for name, kind in (("cached", "known"), ("nowhere", "new")):
            assert cluster.exec(name, "sha256sum", "/image/0/data").split()[0] == made[kind].data[0]
