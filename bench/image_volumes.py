"""A pod with an image of ours as its volume, beside one with Kubernetes' own image volume.

In the cluster of `make e2e`, as root; not among those that `python -m bench` runs.

    first node    no node has anything of the image
    second node   the other one has it, and the content cache has its layers
    warm          a second pod on that node, after the first one is gone

Wall seconds from `kubectl apply` until the pod is Ready, which it is not before its container has
read one file in the volume (`postStart`). Each round has an image in layers of its own, the same
for both sides, whose order alternates. The content cache is one replica, and the first node the one
that it runs on, so that what the second node receives from it comes through its network, where all
is counted.
"""

import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Bar, Figure, human, ratio, save, table, version
from bench.plot import bars_of
from bench.renewed import renewed
from bench.wheels import FIRST_FILE, wheels
from tests.e2e.installation import LEAST, installation
from tests.e2e.kubernetes import NODES, REGISTRY, Cluster, running_cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import CACHE_PODS, NAMESPACE, Product
from tests.support.cluster_programs import BIN
from tests.support.helm import merged
from tests.support.real_image import CACHE
from tests.support.wait import wait_for

ROUNDS = 5
SIDES = ("clip", "image volume")
CASES = ("first node", "second node", "warm")
MOST = {"first node": 0.6, "second node": 0.35, "warm": 1.1}
"""Of Kubernetes' own time."""

ONE_REPLICA = merged(LEAST, {"contentCache": {"replicas": 1}})
USUAL_S = {"first node": (3.5, 9.0), "second node": (3.5, 9.0), "warm": (0.5, 2.0)}
"""What Kubernetes' own takes for these 492 MB on a quiet machine of two cores; another figure voids
the run."""


@dataclass(slots=True)
class Bench:
    """received: bytes that the second node got, by side, once a round."""

    product: Product
    nodes: tuple[str, str]
    figures: dict[tuple[str, str], Figure] = field(
        default_factory=lambda: {
            (case, side): Figure(f"{case}, {side}") for case in CASES for side in SIDES
        }
    )
    received: dict[str, list[int]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def play(self, side: str, image: str) -> None:
        """One round of one side, which leaves no pod."""
        first, second = self.nodes
        with self._pod("first node", side, image, first):
            wait_for(lambda: not self.product.stats(first)["storing"], within_s=120)
            before = self._received(second)
            with self._pod("second node", side, image, second):
                self.received[side].append(self._received(second) - before)
            with self._pod("warm", side, image, second):
                pass

    @contextmanager
    def _pod(self, case: str, side: str, image: str, node: str) -> Iterator[None]:
        cluster, name = self.product.cluster, case.replace(" ", "-")
        begin = time.perf_counter()
        cluster.apply(reader(name, node, volume(side, image)))
        cluster.wait_ready(name)
        self.figures[case, side].seconds.append(time.perf_counter() - begin)
        try:
            yield
        finally:
            cluster.kubectl("delete", "pod", name, "--timeout=60s")

    def _received(self, node: str) -> int:
        return int(
            self.product.cluster.on(node, "cat", "/proc/net/dev").split("eth0:")[1].split()[0]
        )


def volume(side: str, image: str) -> dict[str, Any]:
    if side == "clip":
        return inline(image)
    return {"image": {"reference": image, "pullPolicy": "IfNotPresent"}}


def reader(name: str, node: str, its_volume: dict[str, Any]) -> dict[str, Any]:
    """A pod that is Ready when it has read a file."""
    made = pod(name, node, its_volume)
    read = {"exec": {"command": ["sha256sum", f"/image/{FIRST_FILE}"]}}
    made["spec"]["containers"][0]["lifecycle"] = {"postStart": read}
    del made["spec"]["containers"][0]["volumeMounts"][0]["subPath"]
    return made


def run(rounds: int = ROUNDS) -> list[Bar]:
    with (
        tempfile.TemporaryDirectory(dir=CACHE, prefix="image-volumes-") as home,
        running_cluster() as cluster,
        installation(cluster, Path(home)) as installed,
    ):
        it = Bench(installed.need(ONE_REPLICA), _nodes(cluster))
        cluster.apply(*(pod(f"warm-up-{node}", node, {"emptyDir": {}}) for node in NODES))
        cluster.wait_ready(*(f"warm-up-{node}" for node in NODES))  # busybox is there
        for number in range(rounds):
            layout = renewed(wheels().layout, Path(home) / f"round-{number}", f"round-{number}")
            image = cluster.push(layout, f"wheels-{number}:1")
            for side in SIDES if number % 2 else reversed(SIDES):
                it.play(side, image)
    return _report(it, rounds)


def _nodes(cluster: Cluster) -> tuple[str, str]:
    """The one with the content cache, and the other."""
    words = ("-n", NAMESPACE, "get", "pod", "-l", CACHE_PODS, "-o")
    found = cluster.kubectl(*words, "jsonpath={.items[0].spec.nodeName}")
    first = next(node for node in NODES if cluster.nodes[node] == found)
    return first, next(node for node in NODES if node != first)


def _report(it: Bench, rounds: int) -> list[Bar]:
    print(f"{wheels().payload_bytes} bytes of payload, {rounds} rounds, order alternating")
    print(f"Linux {platform.release()}; kubelet {version(str(BIN / 'kubelet'), '--version')}")
    print(version(str(BIN / "containerd"), "--version"))
    for side in SIDES:
        made = reader("NAME", "NODE", volume(side, f"{REGISTRY}/wheels-N:1"))["spec"]
        print(f"{side}: kubectl apply -f - # {made['volumes']}, {made['containers']}")
    bars = _bars(it)
    rows = [figure.row() for figure in it.figures.values()]
    print("\n" + table(["apply to Ready, a file read", "median", "least", "most"], rows))
    print("\n" + table(["the second node received", *SIDES], [["bytes", *_bytes(it)]]) + "\n")
    print(table(["bar", "found", ""], [bar.row() for bar in bars]) + "\n")
    save("image-volumes", it.figures.values(), bars, received=it.received)
    _save_plot(it)
    return bars


def _bytes(it: Bench) -> list[str]:
    return [f"{median(it.received[side]):,.0f}" for side in SIDES]


def _bars(it: Bench) -> list[Bar]:
    took_s = {key: figure.median_s for key, figure in it.figures.items()}
    ours, theirs = SIDES
    usual = [
        Bar(f"{case}: {theirs} takes what it does", took_s[case, theirs],
            human(took_s[case, theirs]), least=least, most=most)
        for case, (least, most) in USUAL_S.items()
    ]  # fmt: skip # a bar and its limits stay together
    return usual + [
        ratio(
            f"{case}: {ours} against {theirs}", took_s[case, ours] / took_s[case, theirs], most=most
        )
        for case, most in MOST.items()
    ]


def _save_plot(it: Bench) -> None:
    path = CACHE / "bench" / "image-volumes.svg"
    title = f"Seconds from kubectl apply to Ready, {wheels().payload_bytes / 1e6:.0f} MB"
    path.write_text(bars_of(title, {key: one.seconds for key, one in it.figures.items()}))
    print(f"plot: {path}")


if __name__ == "__main__":
    sys.exit(0 if all(bar.is_met for bar in run(*map(int, sys.argv[1:]))) else 1)
