"""What the reporter relies on, of a real API server and of the stand-in of its other tests."""

import pytest

from clipfs import errors
from csi.cluster.api import Cluster
from csi.cluster.errors import ApiRejected
from csi.status.clip_mount import (
    State,
    changed,
    last_error,
    object_fields,
    object_name,
    says,
    status_fields,
)
from csi.status.reporter import subject_of
from csi.status.writer import StatusApi
from tests.support.apiserver import needs_apiserver
from tests.support.cluster_memory import MemoryCluster
from tests.support.reports import IMAGE, MOUNTED, pod_named, volume_of

TIME, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


@pytest.fixture(params=["memory", pytest.param("real", marks=needs_apiserver)])
def api(request: pytest.FixtureRequest) -> StatusApi:
    if request.param == "memory":
        return MemoryCluster()
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster


def state_of(pod: str) -> State:
    subject = subject_of(volume_of(pod_named(pod)))
    assert subject is not None
    return State(subject=subject, ready_since=TIME, degraded_since=TIME)


def event(name: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "ClipFailed",
        "count": 1,
    }


def test_an_event_is_made_once_and_changed(api: StatusApi) -> None:
    api.create_event("default", event("law.1"))
    with pytest.raises(ApiRejected) as again:
        api.create_event("default", event("law.1"))
    assert again.value.status == 409
    assert api.patch_event("default", "law.1", {"count": 2})


def test_an_event_that_is_not_there_is_not_changed(api: StatusApi) -> None:
    assert not api.patch_event("default", "law.absent", {"count": 2})


def test_a_status_needs_its_clip_mount(api: StatusApi) -> None:
    state = state_of("law-absent")
    assert api.clip_mount("default", object_name(state.subject)) is None
    assert not api.apply_clip_mount_status(
        "default", object_name(state.subject), status_fields(state)
    )


def test_a_clip_mount_is_what_was_applied_last(api: StatusApi) -> None:
    state = state_of("law-applied")
    name = object_name(state.subject)
    for _ in range(2):  # the same again changes nothing
        api.apply_clip_mount("default", name, object_fields(state.subject, "n1"))
        assert api.apply_clip_mount_status("default", name, status_fields(state))
    found = api.clip_mount("default", name)
    assert found is not None
    assert found["spec"]["node"] == "n1"
    assert says(found, state)

    failure = last_error(errors.AccessDenied("denied"), LATER)
    failed = changed(state, LATER, phase="Failed", error=failure)
    mounted = changed(failed, LATER, phase="Mounted", figures=MOUNTED, digest=IMAGE.digest)
    for one in (failed, mounted):
        assert api.apply_clip_mount_status("default", name, status_fields(one))
        found = api.clip_mount("default", name)
        assert found is not None
        assert says(found, one)
        assert not says(found, state)
    assert found["status"]["lastError"]["code"] == "access_denied"


def test_what_a_status_says_no_more_is_gone(api: StatusApi) -> None:
    state = state_of("law-shrinking")
    name = object_name(state.subject)
    api.apply_clip_mount("default", name, object_fields(state.subject, "n1"))
    indexing = changed(state, TIME, phase="Indexing", progress="indexing layer 1 of 2")
    for one in (indexing, changed(indexing, TIME, phase="Mounted")):
        assert api.apply_clip_mount_status("default", name, status_fields(one))
    found = api.clip_mount("default", name)
    assert found is not None
    assert "progress" not in found["status"]


def test_a_clip_mount_is_deleted_once_and_again(api: StatusApi) -> None:
    state = state_of("law-deleted")
    name = object_name(state.subject)
    api.apply_clip_mount("default", name, object_fields(state.subject, "n1"))
    for _ in range(2):
        api.delete_clip_mount("default", name)
        assert api.clip_mount("default", name) is None
