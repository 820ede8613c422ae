"""Events and ClipMounts as kubectl prints them, of a real API server."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from clipfs import errors
from csi.cluster.api import Cluster
from csi.cluster.opening import open_cluster
from csi.status.cluster_reporter import ClusterReporter
from csi.status.reporter import subject_of
from tests.support.apiserver import ApiServer, manifest, needs_apiserver, run_apiserver
from tests.support.cluster_pods import described, make_pod
from tests.support.reports import IMAGE, MOUNTED, PROGRESS, REFERENCE, Told, volume_of
from tests.support.tables import rows_of
from tests.support.wait import wait_for

pytestmark = needs_apiserver

NO_TAG = errors.ImageNotFound(f"{REFERENCE}: no such tag; name one that is there")


@pytest.fixture
def told(cluster: Cluster) -> Told:
    return Told(cluster)


def test_describe_shows_each_event_once_with_its_count(api_server: ApiServer, told: Told) -> None:
    volume = volume_of(make_pod(api_server, "web", "see-events"))
    assert volume.pod is not None
    for _ in range(3):
        told.reporter.failed(volume, NO_TAG)
        told.run(60)
    told.reporter.resolved(volume, IMAGE)
    for percent in range(4):
        told.reporter.indexing(volume, IMAGE, replace(PROGRESS, done_bytes=percent * 29_000_000))
        told.run(20)
    told.reporter.mounted(volume, IMAGE, MOUNTED)
    told.run()
    lines = described(api_server, volume.pod)
    assert len(lines) == 4
    by_reason = {line.split()[1]: line for line in lines}
    failed, resolved, indexing, mounted = (
        by_reason[f"Clip{one}"] for one in ("Failed", "Resolved", "Indexing", "Mounted")
    )
    assert re.fullmatch(
        r"Warning ClipFailed \S+ \(x3 over \S+\) csi\.clipfs\.dev "
        r"registry\.example/app:1: no such tag; name one that is there",
        failed,
    )
    assert "registry.example/app:1 is sha256:1111" in resolved
    assert "(x4 over" in indexing
    assert "indexing layer 3 of 7: 3%" in indexing
    assert "mounted with erofs in 1.2 s, 2 of 3 layers" in mounted


def test_events_of_an_earlier_pod_of_that_name_are_not_shown(
    api_server: ApiServer, told: Told
) -> None:
    whose = make_pod(api_server, "again", "see-again")
    told.reporter.failed(volume_of(replace(whose, uid="of-an-earlier-one")), NO_TAG)
    told.run()
    assert described(api_server, whose) == []
    told.reporter.failed(volume_of(whose), NO_TAG)
    told.run()
    assert len(described(api_server, whose)) == 1


def test_get_clipmounts_is_a_dashboard(api_server: ApiServer, told: Told) -> None:
    mounted = volume_of(make_pod(api_server, "web", "see-mounts"))
    failed = volume_of(make_pod(api_server, "broken", "see-mounts"))
    told.reporter.mounted(mounted, IMAGE, MOUNTED)
    told.reporter.failed(failed, NO_TAG)
    told.run()
    said = api_server.kubectl("get", "clipmounts", "-A")
    rows = {row["POD"]: list(row.values()) for row in rows_of(said)}
    assert said.splitlines()[0].split() == [
        *("NAMESPACE", "NAME", "PHASE", "DIGEST", "IMAGE", "POD", "NODE"),
        *("FRONT", "LAYERS", "DISK", "CACHE", "REGISTRY", "AGE"),
    ]
    assert rows["web"][2:12] == [
        *("Mounted", "1" * 12, REFERENCE, "web", "n1", "erofs", "2/3"),
        *("4.3 MB", "430 kB", "160 MB"),
    ]
    assert rows["broken"][2:8] == ["Failed", "", REFERENCE, "broken", "n1", ""]
    wide = api_server.kubectl("get", "clipmounts", "-n", "see-mounts", "-o", "wide")
    assert "no such tag; name one that is there" in wide


def test_a_clip_mount_can_be_waited_for_and_described(api_server: ApiServer, told: Told) -> None:
    volume = volume_of(make_pod(api_server, "web", "see-wait"))
    told.reporter.mounted(volume, IMAGE, MOUNTED)
    told.run()
    api_server.kubectl(
        "wait", "clipmounts", "--all", "-n", "see-wait", "--for=condition=Ready", "--timeout=10s"
    )
    said = api_server.kubectl("describe", "clipmounts", "-n", "see-wait")
    assert IMAGE.digest in said
    assert "Content Cache:  430000" in said


def test_a_clip_mount_belongs_to_its_pod_and_goes_when_unpublished(
    api_server: ApiServer, told: Told
) -> None:
    volume = volume_of(make_pod(api_server, "web", "see-gone"))
    subject = subject_of(volume)
    assert subject is not None
    told.reporter.mounted(volume, IMAGE, MOUNTED)
    told.run()
    (found,) = api_server.objects("clipmounts", "see-gone")
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", subject.pod.uid)
    told.reporter.gone(subject)
    told.run()
    assert api_server.objects("clipmounts", "see-gone") == []


def test_a_driver_that_starts_anew_leaves_every_object_as_it_is(
    api_server: ApiServer, told: Told
) -> None:
    volume = volume_of(make_pod(api_server, "web", "see-restart"))
    subject = subject_of(volume)
    assert subject is not None
    told.reporter.mounted(volume, IMAGE, MOUNTED)
    told.run()
    before = api_server.objects("clipmounts", "see-restart")
    told.figures = lambda digest: MOUNTED
    told.restart()
    told.reporter.adopted(subject, IMAGE.digest)
    told.run(3_600)
    assert api_server.objects("clipmounts", "see-restart") == before


@pytest.mark.parametrize(
    "volume_id", ["csi-" + "0a" * 32, "Äpfel/../x" * 40, "a" * 1_000], ids=["inline", "odd", "long"]
)
@pytest.mark.parametrize("pod", ["x" * 253, f"{'x' * 199}.{'y' * 53}"], ids=["long", "dotted"])
def test_any_pod_and_volume_have_valid_names(
    api_server: ApiServer, told: Told, pod: str, volume_id: str
) -> None:
    whose = make_pod(api_server, pod, "see-names")
    told.reporter.mounted(volume_of(whose, volume_id), IMAGE, MOUNTED)
    told.run()
    found = [one["spec"] for one in api_server.objects("clipmounts", "see-names")]
    assert (pod, volume_id) in [(one["pod"], one["volume"]) for one in found]
    assert described(api_server, whose)


def test_the_thread_tells_by_itself(api_server: ApiServer, cluster: Cluster) -> None:
    volume = volume_of(make_pod(api_server, "web", "see-thread"))
    assert volume.pod is not None
    reporter = ClusterReporter(cluster, "n1", lambda digest: None)
    with reporter.running():
        reporter.wanted(volume)
        reporter.mounted(volume, IMAGE, MOUNTED)
        found = wait_for(lambda: api_server.objects("clipmounts", "see-thread"))
        wait_for(lambda: "status" in api_server.objects("clipmounts", "see-thread")[0])
    assert found[0]["spec"]["node"] == "n1"
    assert [line.split()[1] for line in described(api_server, volume.pod)] == ["ClipMounted"]


def test_an_api_server_that_is_killed_is_caught_up_with(tmp_path: Path) -> None:
    with run_apiserver(tmp_path / "home") as server:
        server.kubectl("apply", "-f", manifest("clip-csi.yaml"))
        server.kubectl("wait", "crd/clipmounts.clipfs.dev", "--for=condition=Established")
        token = tmp_path / "token"
        token.write_text(server.token_of("clip", "clip-node"))
        cluster = open_cluster(server.kubeconfig("driver", token_file=token))
        assert cluster is not None
        told = Told(cluster)
        volume = volume_of(make_pod(server, "web", "default"))
        assert volume.pod is not None
        told.reporter.indexing(volume, IMAGE, PROGRESS)
        told.run()
        server.stop()
        for _ in range(3):
            told.reporter.failed(volume, NO_TAG)
            told.run(60)
        told.reporter.mounted(volume, IMAGE, MOUNTED)
        told.run(60)
        server.start()
        told.run(120)
        (found,) = server.objects("clipmounts", "default")
        assert found["status"]["phase"] == "Mounted"
        assert found["status"]["lastError"]["message"] == str(NO_TAG)
        lines = described(server, volume.pod)
        assert [line.split()[1] for line in lines] == ["ClipIndexing", "ClipFailed", "ClipMounted"]
        assert "(x3 over" in lines[1]
