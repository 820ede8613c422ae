"""What the kubelet does after a publish that was not OK, in a real cluster: it calls again.

How long it rests between two calls is its own affair; it is printed here, and told in
`docs/operations.md` ("How soon the kubelet calls again").
"""

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.registries import SLOW, Registries
from tests.e2e.sample import RandomImage, random_image
from tests.e2e.scrapes import scrape

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

LAYER_BYTES = 7_500_000


@pytest.fixture
def unseen(tmp_path: Path) -> RandomImage:
    return random_image(tmp_path, layer_bytes=LAYER_BYTES)


def ends(product: Product, node: str, name: str) -> list[tuple[str, datetime]]:
    """When calls of the pod's volume ended, and how."""
    found = []
    for line in map(json.loads, filter(is_json, product.log(node).splitlines())):
        if line.get("pod") == f"default/{name}" and (code := code_of(line)):
            found.append((code, datetime.fromisoformat(line["timestamp"])))
    return found


def is_json(line: str) -> bool:
    return line.startswith("{")


def code_of(line: Mapping[str, Any]) -> str:
    if line["event"] == "volume published":
        return "OK"
    is_failure = line["event"] == "call failed" and line["method"] == "NodePublishVolume"
    return str(line["code"]) if is_failure else ""


def rests(found: list[tuple[str, datetime]]) -> str:
    """Seconds between the ends of calls: of one that fails at once, its rest before."""
    times = [at for _, at in found]
    return ", ".join(
        f"{(later - earlier).total_seconds():.1f}" for earlier, later in pairwise(times)
    )


def published_s(product: Product) -> float:
    """What calls on n1 that were OK took so far, all together."""
    found = scrape(product.cluster, product.address("n1", "metrics"), asked_from="asks")
    return found.get(("clip_publish_seconds_sum", "OK"), 0)


def test_a_call_that_was_sent_away_comes_again_and_so_does_one_that_failed(
    unseen: RandomImage,
    registries: Registries,
    image: str,
    product: Product,
    cluster: Cluster,
    pods: Pods,
) -> None:
    pods.run(pod("asks", "n2", inline(image)))
    again, before_s = cluster.push(unseen.layout, "again:1"), published_s(product)
    registries.slow.bytes_per_s = LAYER_BYTES / 150
    pods.make(
        pod("slow", "n1", inline(again.replace(cluster.registry.address, SLOW))),
        pod("missing", "n2", inline(again.replace(":1", ":2"))),
        pod("private", "n2", inline(registries.push_private(unseen.layout, "again:1"))),
    )
    sent_away = r"Warning FailedMount .* code = Aborted .*"
    cluster.wait_event(sent_away, "slow", of="kubelet", within_s=150)
    cluster.push(unseen.layout, "again:2")
    cluster.wait_ready("slow", "missing", within_s=180)
    registries.slow.bytes_per_s = None

    nodes = {"slow": "n1", "missing": "n2", "private": "n2"}
    calls = {name: ends(product, node, name) for name, node in nodes.items()}
    codes = {name: [code for code, _ in ended] for name, ended in calls.items()}
    assert codes["slow"] == ["ABORTED", "OK"]
    *failed, last = codes["missing"]
    assert (set(failed), last) == ({"NOT_FOUND"}, "OK")
    assert set(codes["private"]) == {"UNAUTHENTICATED"}
    assert len(failed) > 2
    for name, ended in calls.items():
        print(f"{name}: {' '.join(codes[name])}; seconds between: {rests(ended)}")
    print(f"the call of slow that was OK took {published_s(product) - before_s:.1f} s of that")
