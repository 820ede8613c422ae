"""`make kube-demo`: what a user of the driver sees in a real cluster, in one minute.

Prints the pods, how long each took and what it moved, the reason that a pod with a wrong tag
gives, and `clipfs stats` of both nodes.
"""

import tempfile
import time
from pathlib import Path

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import NODES, running_cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product, installed_product
from tests.e2e.sample import Sample, build_sample
from tests.support.wait import wait_for

MB = 1_000_000


def main() -> None:
    say("a cluster of two nodes, our image built, pushed and applied")
    with (
        tempfile.TemporaryDirectory() as home,
        running_cluster() as cluster,
        installed_product(cluster, Path(home)) as product,
    ):
        sample = build_sample(Path(home), codec="gzip")
        image = cluster.push(sample.layout, "demo:1")
        files = f"{len(sample.layers)} layers, {len(sample.files)} files"
        say(f"{image}: {files}, {sample.payload_bytes / MB:.0f} MB; nodes have nothing of it")
        pods = Pods(product)
        try:
            show(product, pods, sample, image)
        finally:
            pods.delete_all()
        say("all pods deleted: no mount, server, record or folder of theirs is left on any node")


def show(product: Product, pods: Pods, sample: Sample, image: str) -> None:
    cluster = product.cluster
    path = list(sample.files)[len(sample.files) // 2]
    rows = []
    for node in NODES:
        begin = time.monotonic()
        pods.run(pod(f"on-{node}", node, inline(image)))
        ready_s = time.monotonic() - begin
        found = cluster.exec(f"on-{node}", "sha256sum", f"/image/{path}").split()[0]
        assert found == sample.files[path], f"{path} is wrong on {node}"
        wait_for(lambda node=node: not product.stats(node)["storing"], within_s=60)  # type: ignore[misc] # the node of this turn
        stats = product.stats(node)
        moved = [stats[tier]["bytes"] / MB for tier in ("registry", "content_cache")]
        on_disk = product.disk_bytes(node, sample.layers) / MB
        rows.append((node, ready_s, *moved, on_disk))
    pods.make(pod("wrong-tag", "n1", inline(image.rpartition(":")[0] + ":nowhere")))
    wait_for(lambda: "FailedMount" in cluster.kubectl("describe", "pod", "wrong-tag"), within_s=60)

    say("kubectl get pods -o wide")
    print(cluster.kubectl("get", "pods", "-o", "wide"))
    head = ("apply to Ready", "from registry", "content cache", "on disk")
    print(" " * 4 + "".join(f"{word:>18}" for word in head))
    for node, ready_s, *moved in rows:
        print(f"{node:<4}{ready_s:>16.1f} s" + "".join(f"{mb:>15.2f} MB" for mb in moved))
    say("kubectl describe pod wrong-tag, its events")
    print(cluster.kubectl("describe", "pod", "wrong-tag").partition("Events:")[2])
    for node in NODES:
        say(f"clipfs stats on {node}")
        print(product.on_driver(node, "clipfs", "stats"))


def say(line: str) -> None:
    print(f"\n== {line}", flush=True)


if __name__ == "__main__":
    main()
