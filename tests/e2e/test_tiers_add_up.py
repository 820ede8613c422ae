"""The bytes that a real cluster says of each tier, held against those who have sent them.

The registry's access log has the bytes of each answer's body. The content cache's replicas count
what they have sent of payloads (`clip_content_cache_sent_page_bytes_total`). Nodes tell by
ClipMounts and by metrics what they have received.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import NODES, Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import CACHE_PODS, NAMESPACE, Product
from tests.e2e.sample import RandomImage, random_image
from tests.e2e.scrapes import Samples, scrape
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ASKS = "asks"
"""The pod that asks for metrics, as Prometheus would."""

PROBE_BYTES = 1
"""Of each layer: a node first asks where the blob is, by a range that it does not count."""

SENT = "clip_content_cache_sent_page_bytes_total"
READ = "clip_read_bytes_total"
DOWNLOADED = "clip_registry_download_bytes_total"


@dataclass(frozen=True, slots=True)
class Said:
    """Bytes of payloads so far: by tier, as each node counts them, and as senders do."""

    by_node: dict[str, dict[str, int]]
    by_caches: int
    by_registry: int

    def since(self, before: "Said") -> "Said":
        return Said(
            {
                node: {tier: count - before.by_node[node][tier] for tier, count in tiers.items()}
                for node, tiers in self.by_node.items()
            },
            self.by_caches - before.by_caches,
            self.by_registry - before.by_registry,
        )

    def received(self, tier: str) -> int:
        return sum(tiers[tier] for tiers in self.by_node.values())


@dataclass(frozen=True, slots=True)
class Ledger:
    product: Product
    image: RandomImage

    def now(self) -> Said:
        addresses = [self.product.address(node, "metrics") for node in NODES]
        pages = [self._metrics(address) for address in addresses]
        by_node = {
            node: {
                "registry": int(page[DOWNLOADED,]),
                "content_cache": int(page[READ, "content_cache"]),
            }
            for node, page in zip(NODES, pages, strict=True)
        }
        caches = [int(self._metrics(address)[SENT,]) for address in self._caches()]
        return Said(by_node, sum(caches), sum(self._blob_bytes()))

    def of_mount(self, name: str) -> dict[str, int]:
        """Bytes by tier that the ClipMount of a pod says, once it is Mounted."""

        def told() -> dict[str, int] | None:
            for one in self.product.cluster.objects("clipmounts"):
                status = one.get("status", {})
                if one["spec"]["pod"] == name and status.get("phase") == "Mounted":
                    return dict(status["bytes"])
            return None

        return wait_for(told)

    def _caches(self) -> list[str]:
        words = ("get", "pod", "-n", NAMESPACE, "-l", CACHE_PODS, "-o", "json")
        found = json.loads(self.product.cluster.kubectl(*words))["items"]
        return [f"{one['status']['podIP']}:7070" for one in found]

    def _metrics(self, address: str) -> Samples:
        return scrape(self.product.cluster, address, asked_from=ASKS)

    def _blob_bytes(self) -> Iterator[int]:
        """Of each answer to a GET of one of the image's layers, whoever asked."""
        log = self.product.cluster.registry.log.read_text()
        for digest in self.image.layers:
            pattern = rf'"GET /v2/\S+/blobs/{digest} HTTP/1\.1" 20[06] (\d+) '
            yield from map(int, re.findall(pattern, log))


@pytest.fixture
def ledger(product: Product, pods: Pods, image: str, tmp_path: Path) -> Ledger:
    pods.run(pod(ASKS, "n2", inline(image)))
    return Ledger(product, random_image(tmp_path, layers=3, layer_bytes=9_000_000))


def test_what_nodes_have_received_is_what_registry_and_content_cache_have_sent(
    ledger: Ledger, product: Product, cluster: Cluster, pods: Pods
) -> None:
    made, before = ledger.image, ledger.now()
    image = cluster.push(made.layout, "added-up:1")
    pods.run_and_store(image, "n1")
    pods.run(pod("second", "n2", inline(image, front="fuse")))
    pods.run(pod("third", "n2", inline(image, front="fuse")))
    assert cluster.exec("second", "sha256sum", "/image/0/data").split()[0] == made.data[0]
    cluster.exec("third", "sh", "-c", "head -c 1000000 /image/1/data | sha256sum")

    def settled() -> Said | None:
        """What is brought ahead of a reader may come after it."""
        first, said = ledger.now().since(before), ledger.now().since(before)
        return said if first == said else None

    said = wait_for(settled)
    assert said.by_caches == said.received("content_cache")
    assert said.received("registry") == made.blob_bytes
    assert said.by_registry == made.blob_bytes + PROBE_BYTES * len(made.layers)
    assert said.by_node["n1"] == {"registry": made.blob_bytes, "content_cache": 0}
    assert said.by_node["n2"]["registry"] == 0
    assert 9_000_000 < said.by_caches < 20_000_000, "it is not what was read"

    assert ledger.of_mount("first")["registry"] == made.blob_bytes
    pods.run(pod("fourth", "n2", inline(image, front="fuse")))
    told = ledger.of_mount("fourth")
    assert (told["contentCache"], told["registry"]) == (said.by_caches, 0)
    print(f"bytes sent: registry {said.by_registry}, content cache {said.by_caches}; {said}")
