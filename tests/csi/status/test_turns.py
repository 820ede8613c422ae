"""Whose turn it is: what people wait for comes before counters, and no namespace waits for
another's crowd; and what is read from the disk meanwhile holds nobody up."""

from dataclasses import replace
from threading import Thread

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from csi.cluster.api import Json
from csi.status.reporter import Mounted, Subject, subject_of
from tests.support.cluster_memory import MemoryCluster
from tests.support.reports import IMAGE, MOUNTED, PROGRESS, REFERENCE, Told, pod_named, volume_of

DENIED = errors.AccessDenied(f"{REFERENCE}: denied")
VOLUME = volume_of(pod_named("web"))


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


def mounted() -> Subject:
    found = subject_of(VOLUME)
    assert found is not None
    return found


def phases(cluster: MemoryCluster, namespace: str = "default") -> list[str]:
    return [
        one.get("status", {}).get("phase", "")
        for one in cluster.mounts.values()
        if one["metadata"]["namespace"] == namespace
    ]


def test_a_crowd_in_one_namespace_does_not_keep_another_waiting(cluster: MemoryCluster) -> None:
    told = Told(cluster)
    for number in range(1_000):
        told.reporter.failed(volume_of(pod_named(f"p{number}", "crowd")), DENIED)
    told.run(30)
    told.reporter.failed(volume_of(pod_named("web", "quiet")), DENIED)
    told.run(10)
    assert phases(cluster, "quiet") == ["Failed"]
    assert len(phases(cluster, "crowd")) < 200, "it was still waiting"
    told.run(3_000)
    assert phases(cluster, "crowd") == ["Failed"] * 1_000


def test_counters_wait_for_what_people_wait_for(cluster: MemoryCluster) -> None:
    read = 0

    def figures(digest: str) -> Mounted:
        return replace(MOUNTED, bytes_by_tier={"disk": read})

    told = Told(cluster, figures)
    for number in range(500):
        told.reporter.mounted(volume_of(pod_named(f"p{number}")), IMAGE, figures(""))
    told.run(1_500)
    read = 1
    cluster.requests.clear()
    told.run(200)
    assert len(cluster.requests) > 100, "counters are written"
    told.reporter.failed(volume_of(pod_named("web")), DENIED)
    told.run(10)
    assert phases(cluster).count("Failed") == 1
    told.run(1_500)
    assert {one["status"]["bytes"].get("disk") for one in cluster.mounts.values()
            if one["status"]["phase"] == "Mounted"} == {1}  # fmt: skip # one thought


def test_nobody_waits_for_the_disk_from_which_figures_are_read(cluster: MemoryCluster) -> None:
    read: list[bool] = []

    def figures(digest: str) -> Mounted:
        teller = Thread(target=told.reporter.indexing, args=(VOLUME, IMAGE, PROGRESS), daemon=True)
        teller.start()
        teller.join(10)
        read.append(not teller.is_alive())
        return MOUNTED

    told = Told(cluster, figures)
    told.reporter.mounted(volume_of(pod_named("other")), IMAGE, MOUNTED)
    told.run(400)
    assert read == [True]


def test_figures_that_cannot_be_read_are_read_the_next_time(cluster: MemoryCluster) -> None:
    now: list[Mounted | OSError] = [OSError(5, "Input/output error")]

    def figures(digest: str) -> Mounted:
        if isinstance(now[0], OSError):
            raise now[0]
        return now[0]

    told = Told(cluster, figures)
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    with capture_logs() as lines:
        told.run(400)
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "counters cannot be read")
    ]
    now[0] = replace(MOUNTED, complete=3)
    told.run(400)
    (found,) = cluster.mounts.values()
    assert found["status"]["layers"]["complete"] == 3


def test_what_changes_during_the_look_at_an_earlier_drivers_keeps_its_totals() -> None:
    class Meanwhile(MemoryCluster):
        def clip_mount(self, namespace: str, name: str) -> Json | None:
            found = MemoryCluster.clip_mount(self, namespace, name)
            if not self.requests.count("clip_mount") > 1:
                told.reporter.degraded(subject, "its server is gone", cause="server")
            return found

    cluster, subject = Meanwhile(), mounted()
    told = Told(cluster, lambda digest: replace(MOUNTED, bytes_by_tier={"disk": 1}))
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    told.restart()
    told.reporter.adopted(subject, IMAGE.digest)
    told.run(400)
    (found,) = cluster.mounts.values()
    assert found["status"]["phase"] == "Degraded"
    assert found["status"]["bytes"]["registry"] == MOUNTED.bytes_by_tier["registry"]
