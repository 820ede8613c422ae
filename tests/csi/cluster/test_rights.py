"""What the node plugin may do in a cluster: just what `manifests` say, and no more."""

import json

import pytest

from tests.support.apiserver import ApiServer, manifest, needs_apiserver

pytestmark = needs_apiserver

ALWAYS = (
    ("create", "events"),
    ("patch", "events"),
    ("get", "clipmounts"),
    ("create", "clipmounts"),
    ("patch", "clipmounts"),
    ("delete", "clipmounts"),
    ("patch", "clipmounts/status"),
)
PULL_SECRETS = (("get", "pods"), ("get", "serviceaccounts"), ("get", "secrets"))
TAINT = (("get", "csinodes"), ("get", "nodes"), ("patch", "nodes"))
NEVER = (
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "serviceaccounts/token"),
    ("list", "clipmounts"),
    ("update", "csinodes"),
    ("get", "configmaps"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("patch", "nodes/status"),
    ("impersonate", "users"),
    ("escalate", "roles"),
)
ALL = (*ALWAYS, *PULL_SECRETS, *TAINT, *NEVER)


def allowed(server: ApiServer, namespace: str) -> set[tuple[str, str]]:
    """Which of ALL the API server's own authorizer grants the node plugin in namespace."""
    return {one for one in ALL if server.allows("clip:clip-node", *one, namespace)}


def test_by_default_it_tells_of_its_volumes_and_reads_no_secret_anywhere(
    api_server: ApiServer,
) -> None:
    assert allowed(api_server, "default") == set(ALWAYS)
    assert allowed(api_server, "clip") == set(ALWAYS), "not even its own"


def test_the_example_role_opens_the_pull_secrets_of_its_namespace_alone(
    api_server: ApiServer,
) -> None:
    api_server.kubectl("create", "namespace", "opened")
    role = manifest("examples/pull-secrets.yaml")
    api_server.grant(role, "get", "secrets", namespace="opened")
    assert allowed(api_server, "opened") == {*ALWAYS, *PULL_SECRETS}
    assert allowed(api_server, "default") == set(ALWAYS)


def test_the_example_of_the_taint_opens_nodes_and_nothing_else(api_server: ApiServer) -> None:
    path = manifest("examples/startup-taint.yaml")
    api_server.grant(path, "patch", "nodes")
    try:
        assert allowed(api_server, "default") == {*ALWAYS, *TAINT}
    finally:
        api_server.withdraw(path, "patch", "nodes")


def test_the_manifests_are_taken_whole_and_once_more_without_a_change(
    api_server: ApiServer,
) -> None:
    path = manifest("clip-csi.yaml")

    def versions() -> dict[str, str]:
        found = json.loads(api_server.kubectl("get", "-f", path, "-o", "json"))["items"]
        return {one["metadata"]["uid"]: one["metadata"]["resourceVersion"] for one in found}

    before = versions()
    assert len(api_server.kubectl("apply", "-f", path).splitlines()) == len(before)
    assert versions() == before


@pytest.mark.parametrize("word", ["secrets", "token", "*"])
def test_no_rule_of_the_manifests_speaks_of(api_server: ApiServer, word: str) -> None:
    rules = api_server.kubectl("get", "clusterrole", "clip-node", "-o", "jsonpath={.rules}")
    assert "clipmounts" in rules
    assert word not in rules
