"""The rights that the chart grants are those that the driver uses: both sides are read.

What the driver uses is seen by a server that stands in the API server's place: each call of
`csi.cluster.api` is made once, and what reaches it is named as Kubernetes' authorizer would.

Source: Kubernetes, "Request attributes and authorization"; "Server-side apply" (create and patch).
"""

import inspect
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from csi.cluster import api
from csi.cluster.opening import open_cluster
from tests.support.helm import Object, Values, needs_helm, rendered, sets_of_values

SOURCE = Path(__file__).parents[2] / "csi"
MATRIX = sets_of_values()
CALLS: dict[str, tuple[Any, ...]] = {
    "create_event": ("ns", {}),
    "patch_event": ("ns", "name", {}),
    "clip_mount": ("ns", "name"),
    "apply_clip_mount": ("ns", "name", {}),
    "apply_clip_mount_status": ("ns", "name", {}),
    "delete_clip_mount": ("ns", "name"),
    "pod": ("ns", "name"),
    "service_account": ("ns", "name"),
    "secret": ("ns", "name"),
    "csi_node": ("name",),
    "node": ("name",),
    "set_taints": ("name", [], "1"),
}
"""All calls of the Protocols in `csi.cluster.api`, with something to call them with."""

VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
_PATH = re.compile(
    r"/apis?/(?:(?P<group>[a-z0-9.]+)/)?v[^/]+/(?:namespaces/(?P<namespace>[^/]+)/)?"
    r"(?P<resource>[a-z]+)(?:/[^/]+(?:/(?P<part>[a-z]+))?)?(?:\?.*)?"
)


class Right(NamedTuple):
    verb: str
    group: str
    resource: str


def rights_of(method: str, path: str, content_type: str) -> set[Right]:
    """What the authorizer asks for a request."""
    match = _PATH.fullmatch(path)
    assert match is not None, path
    resource = "/".join(part for part in (match["resource"], match["part"]) if part)
    found = {Right(VERBS[method], match["group"] or "", resource)}
    if content_type.startswith("application/apply-patch") and not match["part"]:
        found.add(Right("create", match["group"] or "", resource))
    return found


@contextmanager
def recording() -> Iterator[tuple[str, list[set[Right]]]]:
    """A server that grants all and answers {}: its URL, and the rights of each request."""
    asked: list[set[Right]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(rights_of(self.command, self.path, self.headers["Content-Type"] or ""))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Right]]:
    """Call of the API -> the rights that it needs."""
    config = tmp_path_factory.mktemp("rights") / "kubeconfig"
    found = {}
    with recording() as (url, asked):
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "c",
                }
            )
        )
        cluster = open_cluster(config)
        for name, arguments in CALLS.items():
            asked.clear()
            getattr(cluster, name)(*arguments)
            [found[name]] = asked
    return found


def granted(objects: list[Object], *kinds: str) -> set[Right]:
    rules = [rule for one in objects if one["kind"] in kinds for rule in one["rules"]]
    return {
        Right(verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def of(used: dict[str, set[Right]], *calls: str) -> set[Right]:
    return set().union(*(used[call] for call in calls))


REPORTS = (
    "create_event",
    "patch_event",
    "clip_mount",
    "apply_clip_mount",
    "apply_clip_mount_status",
    "delete_clip_mount",
)
TAINT = ("csi_node", "node", "set_taints")
PULL_SECRETS = ("pod", "service_account", "secret")


def _names_of(*protocols: type) -> set[str]:
    return {
        name
        for protocol in protocols
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


def test_every_call_of_the_api_is_known_here() -> None:
    protocols = (api.EventApi, api.ClipMountApi, api.PodApi, api.NodeApi)
    assert _names_of(*protocols) == set(CALLS)
    assert {*REPORTS, *TAINT, *PULL_SECRETS} == set(CALLS)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_made_by_the_driver(call: str) -> None:
    outside = [
        path
        for path in SOURCE.rglob("*.py")
        if path.name not in ("api.py", "client.py") and f".{call}(" in path.read_text()
    ]
    assert outside


@needs_helm
def test_by_default_it_may_tell_of_its_volumes_and_nothing_else(
    used: dict[str, set[Right]],
) -> None:
    assert granted(rendered(), "ClusterRole", "Role") == of(used, *REPORTS)


@needs_helm
def test_the_startup_taint_needs_nodes_and_csinodes(used: dict[str, set[Right]]) -> None:
    found = granted(rendered({"node": {"startupTaint": "a/b"}}), "ClusterRole", "Role")
    assert found == of(used, *REPORTS, *TAINT)


@needs_helm
def test_annotations_for_providers_need_service_accounts(used: dict[str, set[Right]]) -> None:
    providers = {"configFile": "/a", "binDir": "/b", "serviceAccountAnnotations": True}
    values: Values = {"registries": {"credentialProviders": providers}}
    assert granted(rendered(values), "ClusterRole", "Role") == of(used, *REPORTS, "service_account")


@needs_helm
def test_pull_secrets_are_granted_in_their_namespaces_alone(used: dict[str, set[Right]]) -> None:
    objects = rendered({"podPullSecrets": {"namespaces": ["team-a", "team-b"]}})
    assert granted(objects, "ClusterRole") == of(used, *REPORTS)
    assert granted(objects, "Role") == of(used, *PULL_SECRETS)
    for kind in ("Role", "RoleBinding"):
        where = {one["metadata"]["namespace"] for one in objects if one["kind"] == kind}
        assert where == {"team-a", "team-b"}


@needs_helm
def test_pull_secrets_of_all_namespaces_are_granted_only_by_name(
    used: dict[str, set[Right]],
) -> None:
    objects = rendered({"podPullSecrets": {"namespaces": ["*"]}})
    assert granted(objects, "ClusterRole") == of(used, *REPORTS, *PULL_SECRETS)
    assert granted(objects, "Role") == set()


@needs_helm
def test_with_everything_on_it_is_granted_what_it_uses_and_no_more(
    used: dict[str, set[Right]],
) -> None:
    assert granted(rendered(MATRIX["everything"]), "ClusterRole", "Role") == of(used, *CALLS)


@needs_helm
@pytest.mark.parametrize("name", MATRIX)
def test_each_role_is_bound_to_the_node_plugin_alone(name: str) -> None:
    objects = rendered(MATRIX[name])
    for kind in ("Role", "ClusterRole"):
        roles = sorted(one["metadata"]["name"] for one in objects if one["kind"] == kind)
        bound = [one for one in objects if one["kind"] == f"{kind}Binding"]
        ours = [one for one in bound if not one["roleRef"]["name"].startswith("system:")]
        assert sorted(one["roleRef"]["name"] for one in ours) == roles
        for one in ours:
            [subject] = one["subjects"]
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "clip")
            assert subject["name"].endswith("-node")


@needs_helm
def test_nobody_else_has_a_token() -> None:
    for one in rendered(MATRIX["everything"]):
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False
        if one["kind"] in ("DaemonSet", "StatefulSet"):
            spec = one["spec"]["template"]["spec"]
            assert spec["automountServiceAccountToken"] is (one["kind"] == "DaemonSet")
