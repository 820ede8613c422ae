"""What people see of a volume in a real cluster: describe, the dashboard, metrics.

In words and columns as kubectl prints them; nothing is read from the driver itself.
"""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import Pods
from tests.e2e.kubernetes import Cluster
from tests.e2e.objects import inline, pod
from tests.e2e.product import Product
from tests.e2e.registries import SLOW, Registries
from tests.e2e.sample import RandomImage, random_image
from tests.e2e.scrapes import Samples, scrape
from tests.support.tables import rows_of
from tests.support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SIZE = r"[\d.]+ [kMG]?B"
SERVER_DIED = (
    "the server of its image has died, so reads fail (Transport endpoint is not connected); it "
    "gets another when the kubelet publishes it next, in a minute or two; containers that run by "
    "then see that one once they are started again, or at once with mountPropagation: "
    "HostToContainer; the node's log says what it died of"
)


@pytest.fixture
def unseen(tmp_path: Path) -> RandomImage:
    """Two layers of 3.75 MB that nobody has."""
    return random_image(tmp_path, layers=2, layer_bytes=3_750_000)


def dashboard(cluster: Cluster, name: str, *options: str) -> dict[str, str]:
    """The pod's line of `kubectl get clipmounts -A`; empty without one."""
    rows = rows_of(cluster.kubectl("get", "clipmounts", "-A", *options))
    return next((row for row in rows if row["POD"] == name), {})


def when_phase(cluster: Cluster, name: str, phase: str, within_s: int = 60) -> dict[str, str]:
    """The line, once it says so."""

    def line() -> dict[str, str]:
        found = dashboard(cluster, name)
        return found if found.get("PHASE") == phase else {}

    return wait_for(line, within_s)


def metrics(product: Product, node: str, *, asked_from: str) -> Samples:
    """What the driver of node tells a pod that asks its port `metrics`."""
    return scrape(product.cluster, product.address(node, "metrics"), asked_from=asked_from)


def clip_mount_writes(cluster: Cluster) -> dict[str, float]:
    """By verb: the requests for ClipMounts that the API server has answered, but those to look."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(cluster.kubectl("get", "--raw", "/metrics")):
        for one in family.samples:
            verb = one.labels.get("verb", "")
            ours = one.labels.get("resource") == "clipmounts"
            if one.name == "apiserver_request_total" and ours and verb in ("APPLY", "DELETE"):
                found[verb] = found.get(verb, 0) + one.value
    return found


def test_a_pod_tells_what_became_of_its_image(
    unseen: RandomImage, image: str, product: Product, cluster: Cluster, pods: Pods
) -> None:
    pods.run(pod("asks", "n2", inline(image)))
    image = cluster.push(unseen.layout, "seen:1")
    before = metrics(product, "n1", asked_from="asks")
    writes = clip_mount_writes(cluster)
    pods.run(pod("seen", "n1", inline(image, front="fuse")))

    cluster.wait_event(f"Normal ClipResolved {image} is {unseen.digest}, 2 layers, 7.5 MB", "seen")
    cluster.wait_event(
        rf"Normal ClipMounted {image} mounted with fuse in [\d.]+ s, 2 of 2 layers on this node; "
        rf"read so far: disk {SIZE}, content cache {SIZE}, registry 7\.5 MB",
        "seen",
    )
    line = when_phase(cluster, "seen", "Mounted")
    short = unseen.digest.removeprefix("sha256:")[:12]
    shown = [line[word] for word in ("NAMESPACE", "DIGEST", "IMAGE", "NODE", "FRONT", "LAYERS")]
    assert shown == ["default", short, image, "n1", "fuse", "2/2"]
    for tier in ("DISK", "CACHE", "REGISTRY"):
        assert re.fullmatch(SIZE, line[tier]), line

    after = metrics(product, "n1", asked_from="asks")
    downloaded = ("clip_registry_download_bytes_total",)
    assert after["clip_mounts",] == 1
    assert after[downloaded] - before[downloaded] == unseen.blob_bytes
    pods.delete("seen")
    wait_for(lambda: not dashboard(cluster, "seen"))
    made = {verb: count - writes.get(verb, 0) for verb, count in clip_mount_writes(cluster).items()}
    print(f"requests for the ClipMount of one pod, from its beginning to its end: {made}")
    assert made["APPLY"] <= 3


def test_a_pod_that_waits_longer_than_the_kubelet_does_says_how_far_it_is(
    unseen: RandomImage, registries: Registries, cluster: Cluster, pods: Pods
) -> None:
    image = cluster.push(unseen.layout, "slow:1").replace(cluster.registry.address, SLOW)
    registries.slow.bytes_per_s, passed = 60_000, registries.slow.passed
    pods.make(pod("slow", "n1", inline(image)))
    progress = r"indexing layer \d of 2: \d+%, [^,]+ of 3\.8 MB"
    pattern = rf"Normal ClipIndexing {image}: {progress}, [\d.]+ kB/s, about \d+ (s|min) left"
    cluster.wait_event(pattern, "slow")
    when_phase(cluster, "slow", "Indexing")
    assert re.search(progress, dashboard(cluster, "slow", "-o", "wide")["PROGRESS"])
    sent_away = rf"Warning FailedMount .* code = Aborted desc = {image}: {progress}.*"
    print(cluster.wait_event(sent_away, "slow", of="kubelet", within_s=150))
    cluster.wait_ready("slow")
    registries.slow.bytes_per_s = None
    when_phase(cluster, "slow", "Mounted")
    moved = (registries.slow.passed - passed) / unseen.blob_bytes
    print(f"the registry sent {moved:.3f} times the image")
    assert 1 <= moved < 1.05


def test_a_volume_says_when_its_server_is_gone_and_when_it_has_another(
    unseen: RandomImage, product: Product, cluster: Cluster, pods: Pods
) -> None:
    image = cluster.push(unseen.layout, "orphan:1")
    pods.run_and_store(image, "n1")
    pods.run(pod("orphan", "n2", inline(image)))
    assert when_phase(cluster, "orphan", "Mounted")["FRONT"] == "fuse"
    product.replace_driver("n2")  # with its container, and so the servers in it
    cluster.wait_event(f"Warning ClipDegraded {image}: {re.escape(SERVER_DIED)}", "orphan")
    again = rf"Normal ClipMounted {image} mounted again with fuse .*; containers that ran before .*"
    cluster.wait_event(again, "orphan")
    when_phase(cluster, "orphan", "Mounted")
    with pytest.raises(AssertionError, match="not connected"):
        cluster.exec("orphan", "sha256sum", "/image/0/data")
    pods.delete("orphan")
    pods.run(pod("next", "n2", inline(image)))
    assert cluster.exec("next", "sha256sum", "/image/0/data").split()[0] == unseen.data[0]
    assert not dashboard(cluster, "orphan")


def test_a_driver_that_hangs_is_not_ready_and_clip_mounts_go_with_their_pods_all_the_same(
    image: str, product: Product, cluster: Cluster, pods: Pods
) -> None:
    pods.run(pod("owner", "n1", inline(image)), pod("stays", "n1", inline(image)))
    when_phase(cluster, "owner", "Mounted")
    when_phase(cluster, "stays", "Mounted")
    with product.frozen_driver("n1"):
        cluster.kubectl("delete", "pod", "owner", "--grace-period=0", "--force")
        wait_for(lambda: not dashboard(cluster, "owner"))
        wait_for(lambda: not product.is_ready("n1"))
    wait_for(lambda: product.is_ready("n1"))
    assert product.restarts("n1") == 0, "a probe has ended what serves images"
    assert dashboard(cluster, "stays")
