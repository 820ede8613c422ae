"""The example of an admission policy, by a real API server: which pods it lets in."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.apiserver import ApiServer, manifest, needs_apiserver
from tests.support.wait import wait_for

pytestmark = needs_apiserver

DIGEST = "@sha256:" + "ab" * 32
GOOD = f"registry.example/team/app{DIGEST}"
EMPTY: dict[str, Any] = {"emptyDir": {}}


def image(reference: str | None, driver: str = "csi.clipfs.dev") -> dict[str, Any]:
    attributes = {} if reference is None else {"volumeAttributes": {"image": reference}}
    return {"csi": {"driver": driver, "readOnly": True, **attributes}}


def refusal(server: ApiServer, *volumes: dict[str, Any]) -> str:
    """What an author of such a pod is told; empty if it is let in. No pod is made."""
    named = [{"name": f"v{n}", **volume} for n, volume in enumerate(volumes)]
    spec = {"containers": [{"name": "c", "image": "none"}], "volumes": named}
    if not named:
        del spec["volumes"]
    metadata = {"name": "p", "namespace": "policy"}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    said = server.kubectl(
        "create", "--dry-run=server", "-f", "-", input=json.dumps(made), check=False
    )
    return "" if said == "pod/p created (server dry run)\n" else said


@pytest.fixture(scope="module")
def policy(api_server: ApiServer) -> Iterator[ApiServer]:
    """In force: the API server takes it up a moment after it was applied."""
    api_server.kubectl("create", "namespace", "policy")
    api_server.kubectl("create", "serviceaccount", "default", "-n", "policy")
    assert refusal(api_server, image("elsewhere.example/app:1")) == "", "nothing refuses it yet"
    path = manifest("examples/image-policy.yaml")
    api_server.kubectl("apply", "-f", path)
    wait_for(lambda: refusal(api_server, image("elsewhere.example/app:1")), within_s=30)
    yield api_server
    api_server.kubectl("delete", "-f", path)


@pytest.mark.parametrize(
    "volumes",
    [
        pytest.param([], id="no-volumes"),
        pytest.param([EMPTY], id="no-csi-volume"),
        pytest.param([image(None, driver="other.example")], id="another-driver"),
        pytest.param([image("elsewhere.example/app:1", "other.example")], id="another-s-image"),
        pytest.param([image(GOOD)], id="allowed"),
        pytest.param([image(f"docker.io/library/app:1{DIGEST}")], id="tag-and-digest"),
        pytest.param([EMPTY, image(GOOD), image(GOOD)], id="several"),
    ],
)
def test_lets_in(policy: ApiServer, volumes: list[dict[str, Any]]) -> None:
    assert refusal(policy, *volumes) == ""


@pytest.mark.parametrize(
    ("volumes", "reason"),
    [
        pytest.param([image(f"elsewhere.example/app{DIGEST}")], "is not below any", id="registry"),
        pytest.param([image(f"registry.example/other/app{DIGEST}")], "not below", id="repository"),
        pytest.param([image(f"registry.example.evil.org/a{DIGEST}")], "not below", id="prefix"),
        pytest.param([image(f"app{DIGEST}")], "not below", id="short-name"),
        pytest.param([image(None)], "not below", id="no-image"),
        pytest.param([image("registry.example/team/app:1")], "by its digest", id="tag"),
        pytest.param([image(GOOD[:-1])], "by its digest", id="short-digest"),
        pytest.param([image(GOOD + "0")], "by its digest", id="long-digest"),
        pytest.param([EMPTY, image(GOOD), image(f"else.example/a{DIGEST}")], "not below", id="one"),
    ],
)  # fmt: skip  # one case a line
def test_refuses(policy: ApiServer, volumes: list[dict[str, Any]], reason: str) -> None:
    said = refusal(policy, *volumes)
    assert "ValidatingAdmissionPolicy 'clip-images'" in said
    assert reason in said
