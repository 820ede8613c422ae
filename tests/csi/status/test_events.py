"""Events of pods: what is told, how often, how many times."""

from dataclasses import replace

import pytest

from clipfs import errors
from csi.cluster.errors import ApiRefused
from csi.errors import CallerGone
from csi.status.reporter import Subject, subject_of
from tests.support.cluster_memory import MemoryCluster
from tests.support.reports import IMAGE, MOUNTED, PROGRESS, REFERENCE, Told, pod_named, volume_of

VOLUME = volume_of(pod_named("web"))
NO_TAG = errors.ImageNotFound(f"{REFERENCE}: no such tag;\n use one that is there")


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def told(cluster: MemoryCluster) -> Told:
    return Told(cluster)


def subject() -> Subject:
    found = subject_of(VOLUME)
    assert found is not None
    return found


def reasons(cluster: MemoryCluster) -> list[tuple[str, str, int]]:
    return [(one["type"], one["reason"], one["count"]) for one in cluster.events.values()]


def test_a_volume_s_way_is_told_to_its_pod(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.wanted(VOLUME)
    told.reporter.resolved(VOLUME, IMAGE)
    told.reporter.indexing(VOLUME, IMAGE, PROGRESS)
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.reporter.degraded(subject(), "its server is gone; replace the pod", cause="server")
    told.run()
    assert reasons(cluster) == [
        ("Normal", "ClipResolved", 1),
        ("Normal", "ClipIndexing", 1),
        ("Normal", "ClipMounted", 1),
        ("Warning", "ClipDegraded", 1),
    ]
    for event in cluster.events.values():
        assert event["involvedObject"] == {
            "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web",
            "uid": "uid-of-web",
        }  # fmt: skip  # as wide as it reads
        assert event["reportingComponent"] == "csi.clipfs.dev"
        assert event["reportingInstance"] == "n1"


def test_the_same_again_raises_the_count(told: Told, cluster: MemoryCluster) -> None:
    for _ in range(5):
        told.reporter.failed(VOLUME, NO_TAG)
        told.run(60)
    (event,) = cluster.told("ClipFailed")
    assert event["count"] == 5
    assert event["message"] == f"{REFERENCE}: no such tag; use one that is there"
    assert event["firstTimestamp"] < event["lastTimestamp"]


def test_what_is_told_faster_than_it_is_written_is_counted_all_the_same(
    told: Told, cluster: MemoryCluster
) -> None:
    for _ in range(1_000):
        told.reporter.failed(VOLUME, NO_TAG)
        told.run(0.05)
    told.run(60)
    (event,) = cluster.told("ClipFailed")
    assert event["count"] == 1_000
    assert len(cluster.requests) < 12, "50 s, a write every 15 s, and the ClipMount's"


def test_another_cause_is_another_event(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.failed(VOLUME, NO_TAG)
    told.reporter.failed(VOLUME, errors.AccessDenied("denied; ask for the right to pull"))
    told.run()
    assert [one["count"] for one in cluster.told("ClipFailed")] == [1, 1]


def test_one_cause_is_one_event_whatever_its_words_say_of_files_and_ports(
    told: Told, cluster: MemoryCluster
) -> None:
    for number in range(5):
        told.reporter.failed(VOLUME, errors.DiskFull(f"run/{number}.tmp: no space left; free some"))
        told.run(60)
    (event,) = cluster.told("ClipFailed")
    assert event["count"] == 5
    assert event["message"] == "run/4.tmp: no space left; free some", "the latest"


def test_progress_is_one_event_written_every_15_s_with_the_latest(
    told: Told, cluster: MemoryCluster
) -> None:
    for second in range(50):
        told.reporter.indexing(VOLUME, IMAGE, replace(PROGRESS, done_bytes=second * 10_000_000))
        told.run(1)
    (event,) = cluster.told("ClipIndexing")
    events = [call for call in cluster.requests if "event" in call]
    assert events == ["create_event", "patch_event", "patch_event", "patch_event"]
    assert "15%, 440 MB of 2.9 GB" in event["message"], "of second 44"


def test_two_volumes_of_a_pod_have_their_own(told: Told, cluster: MemoryCluster) -> None:
    for name in ("csi-1", "csi-2"):
        told.reporter.indexing(volume_of(VOLUME.pod, name), IMAGE, PROGRESS)
    told.run()
    assert len(cluster.told("ClipIndexing")) == 2


def test_an_event_that_has_expired_is_made_anew(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.failed(VOLUME, NO_TAG)
    told.run()
    cluster.events.clear()
    told.reporter.failed(VOLUME, NO_TAG)
    told.run(60)
    assert [one["count"] for one in cluster.told("ClipFailed")] == [1]


def test_a_pod_of_very_many_volumes_is_slowed_down(told: Told, cluster: MemoryCluster) -> None:
    for number in range(500):
        told.reporter.failed(volume_of(VOLUME.pod, f"csi-{number}"), NO_TAG)
        told.run(1)
    assert len(cluster.told("ClipFailed")) == pytest.approx(20 + 500 / 15, abs=2)


def test_one_pod_does_not_silence_another(told: Told, cluster: MemoryCluster) -> None:
    for number in range(500):
        told.reporter.failed(volume_of(VOLUME.pod, f"csi-{number}"), NO_TAG)
    told.run(120)
    told.reporter.failed(volume_of(pod_named("other")), NO_TAG)
    told.run(1)
    assert [one for one in cluster.told("ClipFailed") if one["involvedObject"]["name"] == "other"]


def test_what_the_api_refuses_is_given_up_and_stands_in_nobody_s_way(
    told: Told, cluster: MemoryCluster
) -> None:
    cluster.refuses = ApiRefused("the namespace is being terminated")
    told.reporter.failed(VOLUME, NO_TAG)
    told.run(30)
    asked = len(cluster.requests)
    told.run(60)
    assert len(cluster.requests) == asked
    cluster.refuses = None
    told.reporter.mounted(volume_of(pod_named("other")), IMAGE, MOUNTED)
    told.run()
    assert reasons(cluster) == [("Normal", "ClipMounted", 1)]


def test_a_volume_of_no_pod_and_a_caller_who_left_are_nobody_s_news(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.failed(volume_of(None), NO_TAG)
    told.reporter.wanted(volume_of(None))
    told.reporter.mounted(volume_of(None), IMAGE, MOUNTED)
    told.reporter.failed(VOLUME, CallerGone("nobody waits"))
    told.run(600)
    assert cluster.requests == []
