"""What the product costs in a cluster: memory of its processes, requests to the API server."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.e2e.kubernetes import Cluster
from tests.e2e.product import CACHE_PODS, MOUNTS, NAMESPACE, Product

SCRIPT = (
    "for p in /proc/[0-9]*; do "
    'echo $(grep -s -e ^Rss: -e ^Pss: $p/smaps_rollup) $(tr "\\0" " " <$p/cmdline); done'
)
"""Of a container's processes, a line each; it is in docs/operations.md."""

_LINE = re.compile(r"Rss: (\d+) kB Pss: (\d+) kB (.+)")
ACCOUNT = "clip:clip-node"


@dataclass(frozen=True, slots=True)
class Process:
    """Pss counts a page that n processes share as an nth of it."""

    rss_kb: int
    pss_kb: int
    command: str


def memory(product: Product, node: str) -> dict[str, list[Process]]:
    """Processes of the driver's pod on node, those that serve images apart, and of a replica of
    the content cache."""
    words = ("-n", NAMESPACE, "get", "pod", "-l", CACHE_PODS, "-o", "name")
    replica, *_ = product.cluster.kubectl(*words).split()
    in_pod = _processes(product.cluster, product.node_pod(node))
    return {
        "driver": [one for one in in_pod if MOUNTS not in one.command],
        "servers": [one for one in in_pod if MOUNTS in one.command],
        "content cache": _processes(product.cluster, replica),
    }


def memory_table(product: Product, node: str) -> str:
    return "\n".join(
        f"  {kind} on {node}, {len(found)} processes: "
        f"RSS {sum(one.rss_kb for one in found) / 1000:.0f} MB, "
        f"PSS {sum(one.pss_kb for one in found) / 1000:.0f} MB"
        for kind, found in memory(product, node).items()
    )


@contextmanager
def requests_of_nodes(cluster: Cluster) -> Iterator[Counter[str]]:
    """At the end of the block it is filled with what the node plugins have asked the API server
    for in it."""
    before = Counter(cluster.asked_by(ACCOUNT))
    made: Counter[str] = Counter()
    yield made
    made.update(Counter(cluster.asked_by(ACCOUNT)) - before)


def _processes(cluster: Cluster, pod: str) -> list[Process]:
    """Those of the pod's container, but for the shell that looks."""
    said = cluster.kubectl("-n", NAMESPACE, "exec", pod, "--", "sh", "-c", SCRIPT)
    found = [match.groups() for line in said.splitlines() if (match := _LINE.fullmatch(line))]
    return [
        Process(int(rss), int(pss), command)
        for rss, pss, command in found
        if not command.startswith("sh -c")
    ]
