"""ClipMounts: what they say, and when they are written."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from csi.cluster.errors import ApiRejected
from csi.errors import VolumeConflict
from csi.status.reporter import Mounted, Subject, subject_of
from csi.status.texts import failure_text
from tests.support.cluster_memory import MemoryCluster
from tests.support.reports import IMAGE, MOUNTED, PROGRESS, REFERENCE, Told, pod_named, volume_of

VOLUME = volume_of(pod_named("web"))
DENIED = errors.AccessDenied(f"{REFERENCE}: denied")


class Figures:
    """The counters of the image, as the test turns them."""

    def __init__(self) -> None:
        self.now: Mounted | None = MOUNTED

    def __call__(self, digest: str) -> Mounted | None:
        assert digest == IMAGE.digest
        return self.now

    def read(self, count: int) -> None:
        """So many bytes more than its mount has read."""
        by_tier = MOUNTED.bytes_by_tier
        read = {**by_tier, "disk": by_tier["disk"] + count}
        self.now = replace(MOUNTED, bytes_by_tier=read)

    def begin_anew(self, **by_tier: int) -> None:
        """Another server counts from now on."""
        self.now = replace(MOUNTED, bytes_by_tier=by_tier)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def told(cluster: MemoryCluster, figures: Figures) -> Told:
    return Told(cluster, figures)


def subject() -> Subject:
    found = subject_of(VOLUME)
    assert found is not None
    return found


def only(cluster: MemoryCluster) -> dict[str, Any]:
    (found,) = cluster.mounts.values()
    return found


def status(cluster: MemoryCluster) -> Mapping[str, Any]:
    found: Mapping[str, Any] = only(cluster)["status"]
    return found


def conditions(cluster: MemoryCluster) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status(cluster)["conditions"]}


def calls(cluster: MemoryCluster) -> list[str]:
    """What was asked of ClipMounts since the last time."""
    found = [call for call in cluster.requests if "event" not in call]
    cluster.requests.clear()
    return found


def test_it_says_what_is_mounted_for_whom_and_how(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    found = only(cluster)
    assert found["spec"] == {
        "image": REFERENCE, "pod": "web", "node": "n1", "volume": "csi-1",
    }  # fmt: skip  # as wide as it reads
    assert found["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-of-web"}
    ]
    assert found["status"]["phase"] == "Mounted"
    assert found["status"]["digest"] == IMAGE.digest
    assert found["status"]["front"] == "erofs"
    assert found["status"]["layers"] == {"total": 3, "complete": 2, "summary": "2/3"}
    assert found["status"]["bytes"] == {
        "disk": 4_300_000, "contentCache": 430_000, "registry": 160_000_000,
    }  # fmt: skip  # as wide as it reads
    assert conditions(cluster) == {
        "Ready": ("True", "Mounted"), "Degraded": ("False", "AsExpected"),
    }  # fmt: skip  # as wide as it reads


def test_a_quick_mount_is_two_requests(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.wanted(VOLUME)
    told.reporter.resolved(VOLUME, IMAGE)
    told.reporter.indexing(VOLUME, IMAGE, PROGRESS)
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    assert calls(cluster) == ["apply_clip_mount", "apply_clip_mount_status"]


def test_each_phase_that_lasts_is_seen(told: Told, cluster: MemoryCluster) -> None:
    seen = []
    ways: tuple[Callable[[], None], ...] = (
        lambda: told.reporter.wanted(VOLUME),
        lambda: told.reporter.indexing(VOLUME, IMAGE, PROGRESS),
        lambda: told.reporter.failed(VOLUME, DENIED),
        lambda: told.reporter.mounted(VOLUME, IMAGE, MOUNTED),
        lambda: told.reporter.degraded(subject(), "its server is gone", cause="server"),
        lambda: told.reporter.recovered(subject(), cause="server"),
    )
    for tell in ways:
        tell()
        told.run()
        seen.append((status(cluster)["phase"], conditions(cluster)["Ready"][0]))
    assert seen == [
        ("Resolving", "False"), ("Indexing", "False"), ("Failed", "False"),
        ("Mounted", "True"), ("Degraded", "True"), ("Mounted", "True"),
    ]  # fmt: skip  # as wide as it reads


def test_a_failure_says_why_and_stays_known_after_it(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.failed(VOLUME, DENIED)
    told.run()
    assert status(cluster)["lastError"]["code"] == "access_denied"
    assert status(cluster)["lastError"]["message"] == failure_text(DENIED)
    assert conditions(cluster)["Ready"] == ("False", "AccessDenied")
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    assert status(cluster)["lastError"]["message"] == failure_text(DENIED)
    assert conditions(cluster)["Ready"] == ("True", "Mounted")


def test_a_conflict_is_no_failure_of_the_volume_that_is_there(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.reporter.failed(VOLUME, VolumeConflict("the target holds another; unpublish it first"))
    told.run()
    assert (status(cluster)["phase"], "lastError" in status(cluster)) == ("Mounted", False)
    other = volume_of(pod_named("other"))
    told.reporter.failed(other, VolumeConflict("the target holds another; unpublish it first"))
    told.run()
    assert [one["status"]["phase"] for one in cluster.mounts.values()] == ["Mounted", "Failed"]


def test_a_failure_that_is_tried_again_and_again_is_written_once(
    told: Told, cluster: MemoryCluster
) -> None:
    for _ in range(20):
        told.reporter.wanted(VOLUME)
        told.reporter.failed(VOLUME, DENIED)
        told.run(10)
    assert calls(cluster) == ["apply_clip_mount", "apply_clip_mount_status"]
    told.reporter.failed(VOLUME, errors.RegistryUnavailable("the registry is down"))
    told.run()
    assert status(cluster)["lastError"]["code"] == "registry_unavailable"


def test_a_condition_s_time_moves_with_the_condition_alone(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    before = {one["type"]: one["lastTransitionTime"] for one in status(cluster)["conditions"]}
    told.reporter.degraded(subject(), "its server is gone", cause="server")
    told.run()
    after = {one["type"]: one["lastTransitionTime"] for one in status(cluster)["conditions"]}
    assert after["Ready"] == before["Ready"]
    assert after["Degraded"] > before["Degraded"]


def test_a_volume_that_lacks_two_things_is_degraded_until_it_has_both(
    told: Told, cluster: MemoryCluster
) -> None:
    seen = []
    ways: tuple[Callable[[], None], ...] = (
        lambda: told.reporter.mounted(VOLUME, IMAGE, MOUNTED),
        lambda: told.reporter.degraded(subject(), "its server is gone", cause="server"),
        lambda: told.reporter.degraded(subject(), "access is refused", cause="access"),
        lambda: told.reporter.recovered(subject(), cause="server"),
        lambda: told.reporter.recovered(subject(), cause="server"),
        lambda: told.reporter.recovered(subject(), cause="access"),
    )
    for tell in ways:
        tell()
        told.run()
        message = next(c for c in status(cluster)["conditions"] if c["type"] == "Degraded")
        seen.append((status(cluster)["phase"], message["message"]))
    assert [phase for phase, _ in seen] == ["Mounted", *["Degraded"] * 4, "Mounted"]
    assert seen[2][1] == "its server is gone; access is refused"
    assert seen[3][1] == seen[4][1] == "access is refused"


def test_counters_are_written_every_5_minutes_and_only_if_they_have_changed(
    told: Told, cluster: MemoryCluster, figures: Figures
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    calls(cluster)
    told.run(3_600)
    assert calls(cluster) == []
    for second in range(3_600):
        figures.read(second)
        told.run(1)
    assert calls(cluster) == ["apply_clip_mount_status"] * 12
    assert status(cluster)["bytes"]["disk"] > MOUNTED.bytes_by_tier["disk"] + 3_200


def test_it_is_deleted_with_the_volume_and_written_no_more(
    told: Told, cluster: MemoryCluster, figures: Figures
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    told.reporter.gone(subject())
    told.run()
    assert cluster.mounts == {}
    calls(cluster)
    figures.read(1)
    told.run(3_600)
    assert calls(cluster) == []


def test_a_volume_that_comes_and_goes_at_once_is_not_written(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.reporter.gone(subject())
    told.run(600)
    assert calls(cluster) == []


def test_a_volume_that_comes_again_is_written_again(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    told.reporter.gone(subject())
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    assert status(cluster)["phase"] == "Mounted"


def test_one_that_somebody_deleted_comes_back_with_its_next_change(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    cluster.mounts.clear()
    told.reporter.degraded(subject(), "its server is gone", cause="server")
    told.run()
    assert status(cluster)["phase"] == "Degraded"


def test_a_driver_that_starts_anew_looks_and_writes_nothing_that_is_there(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.failed(VOLUME, DENIED)
    told.run()
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    before = only(cluster)
    calls(cluster)
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.run(3_600)
    assert calls(cluster) == ["clip_mount"]
    assert only(cluster) == before


def test_what_nobody_counts_any_more_stays_as_it_was(
    told: Told, cluster: MemoryCluster, figures: Figures
) -> None:
    """The kernel serves it alone: its server, which has counted, is gone."""
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    before = only(cluster)
    calls(cluster)
    figures.now = replace(MOUNTED, bytes_by_tier={})
    told.run(3_600)
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.run(3_600)
    assert calls(cluster) == ["clip_mount"]
    assert only(cluster) == before


def test_no_counter_goes_backwards_whatever_counts_anew(
    told: Told, cluster: MemoryCluster, figures: Figures
) -> None:
    disk, registry = (MOUNTED.bytes_by_tier[tier] for tier in ("disk", "registry"))
    seen = []

    def look() -> None:
        told.run(600)
        bytes_of = status(cluster)["bytes"]
        seen.append((bytes_of["disk"] - disk, bytes_of["registry"] - registry))

    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    look()
    figures.begin_anew(disk=0, registry=0)
    look()
    figures.begin_anew(disk=7, registry=3)
    look()
    told.reporter.mounted(VOLUME, IMAGE, replace(MOUNTED, bytes_by_tier={"disk": 1}))
    look()
    told.restart()
    figures.begin_anew(disk=2)
    told.reporter.adopted(subject(), IMAGE.digest)
    look()
    figures.begin_anew(disk=12)
    look()
    assert seen == [(0, 0), (0, 0), (7, 3), (14, 3), (14, 3), (24, 3)]


def test_a_driver_that_starts_anew_mends_what_is_not_so(
    told: Told, cluster: MemoryCluster, figures: Figures
) -> None:
    told.reporter.failed(VOLUME, DENIED)
    told.run()
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.run(600)
    assert status(cluster)["phase"] == "Mounted"
    assert status(cluster)["lastError"]["message"] == failure_text(DENIED)
    since = status(cluster)["conditions"][0]["lastTransitionTime"]
    told.restart()
    figures.read(5)
    told.reporter.adopted(subject(), IMAGE.digest)
    told.run(600)
    assert status(cluster)["bytes"]["disk"] == MOUNTED.bytes_by_tier["disk"] + 5
    assert status(cluster)["conditions"][0]["lastTransitionTime"] == since


def test_what_a_later_version_wrote_is_mended_too(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.failed(VOLUME, DENIED)
    told.run()
    status(cluster)["lastError"]["hint"] = "of a field that this version does not know"
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.run(600)
    assert status(cluster)["phase"] == "Mounted"
    assert status(cluster)["lastError"]["message"] == failure_text(DENIED)


def test_an_object_that_is_not_understood_stands_in_no_others_way(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    only(cluster)["status"]["conditions"] = "not a list of objects"
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.reporter.mounted(volume_of(pod_named("other")), IMAGE, MOUNTED)
    with capture_logs() as lines:
        told.run(600)
    assert [one["spec"]["pod"] for one in cluster.mounts.values()] == ["web", "other"]
    assert {line["event"] for line in lines if line["log_level"] == "error"} == {
        "a report cannot be written, this is a bug"
    }


def test_what_an_earlier_driver_wrote_goes_with_its_volume(
    told: Told, cluster: MemoryCluster
) -> None:
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run()
    told.restart()
    told.reporter.adopted(subject(), IMAGE.digest)
    told.reporter.gone(subject())
    told.run()
    assert cluster.mounts == {}


def test_without_the_custom_resource_it_is_tried_again_every_few_minutes(
    told: Told, cluster: MemoryCluster
) -> None:
    cluster.refuses = ApiRejected("no such resource", status=404)
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.run(3_600)
    assert 12 <= len(calls(cluster)) <= 14
    cluster.refuses = None
    told.run(600)
    assert status(cluster)["phase"] == "Mounted"


def test_a_volume_shared_by_two_pods_is_two(told: Told, cluster: MemoryCluster) -> None:
    other = volume_of(pod_named("other"))
    told.reporter.mounted(VOLUME, IMAGE, MOUNTED)
    told.reporter.mounted(other, IMAGE, MOUNTED)
    told.run()
    assert len(cluster.mounts) == 2
    told.reporter.gone(subject())
    told.run()
    assert only(cluster)["spec"]["pod"] == "other"


def test_a_volume_that_never_came_is_forgotten(told: Told, cluster: MemoryCluster) -> None:
    told.reporter.failed(VOLUME, DENIED)
    told.run(2 * 3_600)
    cluster.mounts.clear()
    calls(cluster)
    told.run(3_600)
    assert calls(cluster) == []
