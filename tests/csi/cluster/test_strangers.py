"""What a namespace is told of a volume that it may not have: nothing of the neighbour's image.

All real: the driver, two registries, an API server. The neighbour's image is mounted on the node.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.apiserver import ApiServer, needs_apiserver
from tests.support.cluster_pods import described, make_pod
from tests.support.driver import Driver, failure
from tests.support.machine import needs_fuse
from tests.support.neighbours import (
    NEIGHBOUR,
    NOBODY,
    STRANGER,
    Registries,
    Try,
    make_secret,
    run_registries,
)
from tests.support.wait import wait_for

pytestmark = [needs_apiserver, needs_fuse]


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[Registries]:
    (tmp_path / "secret").mkdir()
    with run_registries(make_secret(tmp_path / "secret"), tmp_path) as running:
        yield running


def asked(server: ApiServer, driver: Driver, one: Try, event: str) -> str:
    """All that its namespace has of one's pod once there is that event: as JSON."""
    pod = make_pod(server, one.pod, one.who[0])
    keys = {"uid": pod.uid, "namespace": pod.namespace, "name": pod.name}
    attributes = {f"csi.storage.k8s.io/pod.{key}": value for key, value in keys.items()}
    if event == "ClipFailed":
        failure(lambda: one.publish(driver, pod=attributes))
    else:
        one.publish(driver, pod=attributes)
    wait_for(lambda: any(event in line for line in described(server, pod)))

    def reports() -> list[object]:
        found = server.objects("clipmounts", pod.namespace)
        return [found for found in found if found["spec"]["pod"] == pod.name and "status" in found]

    events = [found for found in server.objects("events", pod.namespace)
              if found["involvedObject"]["name"] == pod.name]  # fmt: skip # as one says it
    return json.dumps([*events, *wait_for(reports)])


def test_events_and_reports_tell_a_stranger_no_name_and_no_digest(
    registries: Registries, api_server: ApiServer, driver_config: Path, start: Start
) -> None:
    driver = start("--kubeconfig", str(driver_config), *registries.options())
    secret = registries.secret
    theirs = asked(api_server, driver, Try(who=NEIGHBOUR, image=registries.image()), "ClipMounted")
    assert secret.digests["same"] in theirs, "what is looked for would be found"
    for who, policy in ((STRANGER, "Always"), (STRANGER, "Never"), (NOBODY, "IfNotPresent")):
        one = Try(who=who, image=registries.image(), policy=policy)
        said = asked(api_server, driver, one, "ClipFailed")
        assert [word for word in secret.all_of_it() if word in said] == [], said
    for name, front in (("same", "fuse"), ("mixed", "erofs")):
        one = Try(who=STRANGER, image=registries.theirs(name), front=front)
        said = asked(api_server, driver, one, "ClipFailed")
        assert secret.digests[name] in said, "his own manifest's"
        words = [*secret.contents, *([secret.digests["same"]] if name == "mixed" else [])]
        assert [word for word in words if word in said] == [], said
    assert registries.layer_reads()
