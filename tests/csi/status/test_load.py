"""What 10,000 mounts cost the API server, in requests a minute, and an outage of it.

Stated bounds: one node asks at most BURST times at once and then NODE_A_MINUTE times a minute,
whatever happens on it. A cluster of 10,000 mounts asks CLUSTER_A_MINUTE times a minute if all
of them are read from all the time, and not at all if none is.
"""

import random
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

import pytest

from clipfs import errors
from csi.status.events import NODE_BURST
from csi.status.mounts import BURST as MOUNT_BURST
from csi.status.reporter import Mounted, Subject, subject_of
from tests.support.cluster_memory import MemoryCluster
from tests.support.reports import IMAGE, MOUNTED, PROGRESS, MadeTime, Told, pod_named, volume_of
from tests.support.wait import wait_for

MOUNTS = 10_000
BURST = NODE_BURST + MOUNT_BURST
NODE_A_MINUTE = 120
CLUSTER_A_MINUTE = 2_000


class Counter:
    """Every image is read from all the time; or none, while it stands still."""

    def __init__(self) -> None:
        self.count = 0
        self.is_still = False

    def __call__(self, digest: str) -> Mounted:
        self.count += not self.is_still
        return replace(MOUNTED, bytes_by_tier={"disk": self.count})


def minutes(cluster: MemoryCluster, told: list[Told], count: int) -> list[int]:
    """Requests of each of the next minutes."""
    found = []
    for _ in range(count):
        before, begin = len(cluster.requests), told[0].time.now
        for one in told:
            one.time.now = begin
            one.run(60)
        found.append(len(cluster.requests) - before)
    return found


def subjects(node: str, count: int) -> list[Subject]:
    found = [subject_of(volume_of(pod_named(f"{node}-{n}"))) for n in range(count)]
    return [one for one in found if one is not None]


def test_a_node_of_10_000_mounts_that_all_begin_at_once_and_are_all_read() -> None:
    cluster = MemoryCluster()
    told = Told(cluster, Counter(), jitter=random.Random(1).random)
    for number in range(MOUNTS):
        volume = volume_of(pod_named(f"p{number}"))
        told.reporter.resolved(volume, IMAGE)
        told.reporter.mounted(volume, IMAGE, MOUNTED)
    first, *others = minutes(cluster, [told], 20)
    assert first <= BURST + NODE_A_MINUTE
    assert max(others) <= NODE_A_MINUTE
    assert min(others) > NODE_A_MINUTE / 3, "the bound was met"


@pytest.fixture
def nodes() -> tuple[MemoryCluster, list[Told], Counter]:
    """A cluster whose 100 nodes have 100 mounts each, all adopted by new drivers at once."""
    cluster, counter, time = MemoryCluster(), Counter(), MadeTime()
    numbers = random.Random(1)
    told = []
    for number in range(100):
        one = Told(cluster, counter, time, jitter=numbers.random, node=f"n{number}")
        for subject in subjects(one.node, 100):
            one.reporter.adopted(subject, IMAGE.digest)
        told.append(one)
    return cluster, told, counter


def test_a_cluster_of_10_000_mounts(nodes: tuple[MemoryCluster, list[Told], Counter]) -> None:
    cluster, told, counter = nodes
    minutes(cluster, told, 10)  # each is looked at, made and written
    assert len(cluster.mounts) == MOUNTS
    busy = minutes(cluster, told, 15)
    assert max(busy) <= CLUSTER_A_MINUTE
    assert min(busy) > CLUSTER_A_MINUTE / 2, "they are all read from, and spread"
    counter.is_still = True
    minutes(cluster, told, 8)
    assert sum(minutes(cluster, told, 8)) == 0


def test_a_restart_of_all_drivers_asks_once_a_mount_and_writes_nothing(
    nodes: tuple[MemoryCluster, list[Told], Counter],
) -> None:
    cluster, told, counter = nodes
    counter.is_still = True
    minutes(cluster, told, 20)
    cluster.requests.clear()
    for one in told:
        one.restart()
        for subject in subjects(one.node, 100):
            one.reporter.adopted(subject, IMAGE.digest)
    each = minutes(cluster, told, 20)
    assert set(cluster.requests) == {"clip_mount"}
    assert len(cluster.requests) == MOUNTS
    assert max(each) <= 1.1 * MOUNTS / 5, "spread over five minutes"


def test_an_outage_is_caught_up_with_the_latest_of_each_volume() -> None:
    cluster = MemoryCluster(is_down=True)
    told = Told(cluster, Counter(), jitter=random.Random(1).random)
    volumes = [volume_of(pod_named(f"p{number}")) for number in range(20)]
    for _ in range(30):
        for volume in volumes:
            told.reporter.failed(volume, errors.RegistryUnavailable("the registry is down"))
        told.run(60)
    asked = len(cluster.requests)
    assert asked < 40, "ever more seldom"
    for volume in volumes:
        told.reporter.mounted(volume, IMAGE, MOUNTED)
    cluster.is_down = False
    told.run(240)
    assert {one["status"]["phase"] for one in cluster.mounts.values()} == {"Mounted"}
    assert len(cluster.mounts) == len(volumes)
    assert [one["count"] for one in cluster.told("ClipFailed")] == [30] * len(volumes)
    assert len(cluster.told("ClipMounted")) == len(volumes)
    assert len(cluster.requests) - asked <= 4 * len(volumes) + 2


def test_what_an_outage_keeps_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi.status.events.MAX_EVENTS", 100)
    cluster = MemoryCluster(is_down=True)
    told = Told(cluster)
    for number in range(1_000):
        fault = errors.NodeFault(f"cause {number}")
        told.reporter.failed(volume_of(pod_named("web"), f"csi-{number}"), fault)
    cluster.is_down = False
    told.run(3_600)
    assert len(cluster.told("ClipFailed")) == 100
    assert cluster.told("ClipFailed")[-1]["message"] == "cause 999"


def test_nobody_waits_for_the_api_server() -> None:
    """The request hangs, and everything that is told meanwhile returns."""

    class Silent(MemoryCluster):
        def _asked(self, call: str) -> None:
            reached.set()
            answer.wait()
            MemoryCluster._asked(self, call)

    reached, answer = Event(), Event()
    cluster = Silent()
    told = Told(cluster)
    volume = volume_of(pod_named("web"))
    with told.reporter.running(), ExitStack() as stack:
        stack.callback(answer.set)
        told.reporter.wanted(volume)
        told.time.now += 1
        told.reporter.resolved(volume, IMAGE)
        assert reached.wait(10)
        for _ in range(1_000):
            told.reporter.indexing(volume, IMAGE, PROGRESS)
        told.reporter.mounted(volume, IMAGE, MOUNTED)
        assert cluster.events == {}, "nothing was answered so far"
        answer.set()
        wait_for(lambda: cluster.told("ClipMounted"))
