"""`make kube-demo`: what a user of the driver sees in a real cluster, in a minute or two.

Prints the pods, how long each took and what it moved, their ClipMounts, the reason that a pod with
a wrong tag gives, and `clipfs stats` of both nodes. With --keep, `make kube-demo KEEP=1`, all of it
stays to be looked at.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import table
from tests.e2e.cluster.place import CONTROL, environment
from tests.e2e.cluster.processes import inside
from tests.e2e.conftest import Pods
from tests.e2e.installation import LEAST, installation
from tests.e2e.kubernetes import NODES, running_cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.sample import Sample, build_sample
from tests.support.wait import wait_for

MB = 1_000_000
KEPT = """\
It is left running. Try:

  alias kubectl='{kubectl}'
  kubectl get pods,clipmounts -A
  kubectl exec demo-1 -- ls -l /image/usr/bin

and at last: make cluster-down"""


@dataclass(slots=True, kw_only=True)
class Row:
    """A pod: what it waited for, and what its node has moved and holds for it since, in bytes."""

    name: str
    ready_s: float
    registry: int
    content_cache: int
    on_disk: int

    def cells(self) -> list[str]:
        moved = (self.registry, self.content_cache, self.on_disk)
        return [self.name, f"{self.ready_s:.1f} s", *(f"{count / MB:.2f} MB" for count in moved)]


def main(*, keep: bool) -> None:
    say("a cluster of two nodes; our image built and pushed, its chart installed")
    with (
        tempfile.TemporaryDirectory() as home,
        running_cluster(keep=keep) as cluster,
        installation(cluster, Path(home), keep=keep) as installed,
    ):
        product = installed.need(LEAST)
        sample = build_sample(Path(home), codec="gzip")
        image = cluster.push(sample.layout, "demo:1")
        files = f"{len(sample.layers)} layers, {len(sample.files)} files"
        say(f"{image}: {files}, {sample.payload_bytes / MB:.0f} MB; nodes have nothing of it")
        pods = Pods(product)
        try:
            show(product, pods, sample, image)
        finally:
            if not keep:
                pods.delete_all()
    if keep:
        kubectl = [*inside(CONTROL), "env", f"KUBECONFIG={environment()['KUBECONFIG']}"]
        say(KEPT.format(kubectl=" ".join([*kubectl, f"PATH={environment()['PATH']}", "kubectl"])))
    else:
        say("all pods deleted: no mount, server, record or folder of theirs was left on any node")


def show(product: Product, pods: Pods, sample: Sample, image: str) -> None:
    kubectl = product.cluster.kubectl
    plays = [("first node", "n1"), ("second node", "n2"), ("again", "n2")]
    rows = [
        start(product, pods, sample, image, name=f"{words}, {node}", node=node, number=number)
        for number, (words, node) in enumerate(plays)
    ]
    pods.make(pod("wrong-tag", "n1", inline(image.rpartition(":")[0] + ":nowhere")))
    wait_for(lambda: "FailedMount" in kubectl("describe", "pod", "wrong-tag"), within_s=60)
    say("kubectl get pods -o wide")
    print(kubectl("get", "pods", "-o", "wide"))
    say("what each pod waited for, and what its node moved for it")
    head = ("pod", "apply to Ready", "from registry", "content cache", "on disk")
    print(table(head, [row.cells() for row in rows]))
    say("kubectl get clipmounts -A")
    print(kubectl("get", "clipmounts", "-A"))
    for name in ("demo-0", "wrong-tag"):
        say(f"kubectl describe pod {name}, its events")
        print(kubectl("describe", "pod", name).partition("Events:")[2])
    for node in NODES:
        say(f"clipfs stats on {node}")
        print(product.on_driver(node, "clipfs", "stats"))


def start(
    product: Product, pods: Pods, sample: Sample, image: str, *, name: str, node: str, number: int
) -> Row:
    """Run a pod and read a file in it, which must be right."""
    before = product.stats(node)
    begin, pod_name = time.monotonic(), f"demo-{number}"
    pods.run(pod(pod_name, node, inline(image)))
    ready_s = time.monotonic() - begin
    path = list(sample.files)[len(sample.files) // 2]
    found = product.cluster.exec(pod_name, "sha256sum", f"/image/{path}").split()[0]
    assert found == sample.files[path], f"{path} is wrong on {node}"
    wait_for(lambda: not product.stats(node)["storing"], within_s=60)
    after = product.stats(node)
    return Row(
        name=name,
        ready_s=ready_s,
        registry=after["registry"]["bytes"] - before["registry"]["bytes"],
        content_cache=after["content_cache"]["bytes"] - before["content_cache"]["bytes"],
        on_disk=product.disk_bytes(node, sample.layers),
    )


def say(line: str) -> None:
    print(f"\n== {line}", flush=True)


if __name__ == "__main__":
    main(keep="--keep" in sys.argv[1:])
