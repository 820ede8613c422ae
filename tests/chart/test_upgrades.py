"""helm with a real API server: what is installed, what upgrades keep, what an uninstall leaves.

No controller runs there, so nothing is waited for; pods are the cluster tests'.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.apiserver import ApiServer, needs_apiserver, run_apiserver
from tests.support.helm import (
    CHART,
    Object,
    Values,
    helm,
    merged,
    needs_helm,
    rendered,
    run_helm,
    sets_of_values,
)
from tests.support.wait import wait_for

pytestmark = [needs_helm, needs_apiserver]

MATRIX = sets_of_values()
MADE = {
    ("clip-index-key", "key"),
    ("clip-content-cache-token", "token"),
    ("clip-content-cache-read-token", "token"),
}


@dataclass(frozen=True, slots=True)
class Release:
    """`clip` in the namespace `clip`, not installed yet."""

    server: ApiServer

    def put(self, *values: Values) -> str:
        """`helm upgrade --install`; its notes."""
        words = ("upgrade", "--install", "--create-namespace", "clip", str(CHART))
        return helm(
            *words,
            *self._where(),
            "--values",
            "-",
            input=json.dumps(merged(*values)),
            env=self._env(),
        )

    def remove(self) -> None:
        """Return when nothing of it is left; a definition takes a moment to go."""
        helm("uninstall", "clip", *self._where(), env=self._env())
        wait_for(lambda: not self.objects(), within_s=30)

    def refused(self, *values: Values) -> str:
        words = ("upgrade", "clip", str(CHART), *self._where(), "--values", "-")
        done = run_helm(*words, input=json.dumps(merged(*values)), env=self._env())
        assert done.returncode != 0
        return done.stderr

    def secrets(self) -> dict[tuple[str, str], str]:
        """Secret and key -> its bytes in base64; helm's own records left out."""
        return {
            (one["metadata"]["name"], key): value
            for one in self.server.objects("secrets", "clip")
            if one["type"] == "Opaque"
            for key, value in one["data"].items()
        }

    def objects(self) -> list[str]:
        """All that bears the chart's name, in the cluster and its namespaces."""
        said = self.server.kubectl("api-resources", "--verbs=list,delete", "-o", "name")
        ours = ("events", "clipmounts.clipfs.dev")  # which come and go with their definition
        kinds = ",".join(one for one in said.split() if not one.startswith(ours))
        label = "app.kubernetes.io/name=clip-csi"
        found = self.server.kubectl("get", kinds, "-A", "-l", label, "-o", "name")
        return sorted(found.split())

    def _where(self) -> tuple[str, ...]:
        return ("--namespace", "clip")

    def _env(self) -> dict[str, str]:
        home = str(self.server.home)
        return {
            "KUBECONFIG": str(self.server.kubeconfig("admin")),
            "HELM_CACHE_HOME": f"{home}/helm",
            "HOME": os.environ.get("HOME", home),
        }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with run_apiserver(tmp_path_factory.mktemp("chart") / "home") as found:
        yield found


@pytest.fixture
def release(server: ApiServer) -> Iterator[Release]:
    made = Release(server)
    made.put()
    yield made
    made.remove()


def test_an_upgrade_keeps_every_byte_of_the_secrets(release: Release) -> None:
    before = release.secrets()
    assert set(before) == MADE
    assert len(set(before.values())) == 3
    release.put({"node": {"logLevel": "debug"}, "contentCache": {"replicas": 3}})
    assert release.secrets() == before
    [cache] = release.server.objects("statefulset", "clip")
    assert cache["spec"]["replicas"] == 3, "it was an upgrade"


def test_keys_that_an_administrator_has_put_in_front_stay(release: Release) -> None:
    change = {"stringData": {"key": "new\nold\n"}}
    words = ("patch", "secret", "clip-index-key", "-n", "clip", "--patch", json.dumps(change))
    release.server.kubectl(*words)
    before = release.secrets()
    release.put({"node": {"logLevel": "debug"}})
    assert release.secrets() == before


def test_a_secret_that_somebody_has_deleted_comes_back_and_the_others_stay(
    release: Release,
) -> None:
    before = release.secrets()
    release.server.kubectl("delete", "secret", "clip-index-key", "-n", "clip")
    release.put()
    after = release.secrets()
    changed = {name for name in MADE if after[name] != before[name]}
    assert changed == {("clip-index-key", "key")}


def test_a_secret_of_ones_own_takes_its_place(release: Release) -> None:
    release.put({"indexKey": {"existingSecret": "mine"}})
    assert set(release.secrets()) == MADE - {("clip-index-key", "key")}


def test_an_installation_with_everything_on_leaves_nothing_behind(server: ApiServer) -> None:
    server.kubectl("create", "namespace", "team-a")
    release = Release(server)
    release.put(MATRIX["everything"], OFF, {"podPullSecrets": {"namespaces": ["team-a"]}})
    made = release.objects()
    assert "role.rbac.authorization.k8s.io/images-pull-secrets" in made
    assert "customresourcedefinition.apiextensions.k8s.io/clipmounts.clipfs.dev" in made
    assert len(made) > 20
    release.remove()


OFF: Values = {
    "monitoring": {
        name: {"enabled": False} for name in ("podMonitor", "serviceMonitor", "prometheusRule")
    }
}
"""No Prometheus operator is in the API server."""


def test_an_upgrade_to_unknown_values_is_refused_and_changes_nothing(release: Release) -> None:
    before = release.server.objects("daemonset", "clip")
    assert "'podMonitors' not allowed" in release.refused({"monitoring": {"podMonitors": {}}})
    assert release.server.objects("daemonset", "clip") == before


def test_the_notes_say_what_to_run_next(release: Release) -> None:
    said = release.put()
    assert "kubectl -n clip rollout status statefulset/clip-content-cache" in said
    assert "driver: csi.clipfs.dev" in said
    assert "kubectl get clipmounts -A" in said
    assert "kubectl drain NODE --ignore-daemonsets --delete-emptydir-data" in said
    asked = release.put({"node": {"updateStrategy": {"type": "RollingUpdate"}}})
    assert "kubectl drain NODE" not in asked


def _strictly(server: ApiServer, objects: list[Object]) -> str:
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    return server.kubectl(*words, input=items)


@pytest.mark.parametrize("name", MATRIX)
def test_the_api_server_takes_every_object_without_a_warning(name: str, release: Release) -> None:
    objects = rendered(MATRIX[name], OFF, {"podPullSecrets": {"namespaces": ["default"]}})
    said = _strictly(release.server, objects).splitlines()
    assert len(said) == len(objects)
    assert [line for line in said if "dry run" not in line] == []


ALWAYS = {
    *(("create", "events"), ("patch", "events")),
    *((verb, "clipmounts") for verb in ("get", "create", "patch", "delete")),
    ("patch", "clipmounts/status"),
}
NEVER = {
    *((verb, "secrets") for verb in ("get", "list", "watch")),
    *(("create", "serviceaccounts/token"), ("get", "pods"), ("get", "nodes"), ("patch", "nodes")),
    *(("get", "configmaps"), ("list", "clipmounts"), ("create", "pods"), ("escalate", "roles")),
}


@pytest.mark.parametrize("namespace", ["clip", "default"])
def test_the_authorizer_gives_the_node_plugin_what_it_needs_alone(
    release: Release, namespace: str
) -> None:
    def allowed(who: str) -> set[tuple[str, str]]:
        asked = ALWAYS | NEVER
        return {one for one in asked if release.server.allows(who, *one, namespace)}

    assert allowed("clip:clip-node") == ALWAYS
    assert allowed("clip:clip-content-cache") == set()


def test_clip_mounts_are_known_and_go_with_the_release(server: ApiServer) -> None:
    release = Release(server)
    release.put()
    server.kubectl("wait", "crd/clipmounts.clipfs.dev", "--for=condition=Established")
    spec: dict[str, Any] = {"image": "i", "pod": "p", "node": "n", "volume": "v"}
    server.apply(
        {
            "apiVersion": "clipfs.dev/v1alpha1",
            "kind": "ClipMount",
            "metadata": {"name": "one", "namespace": "default"},
            "spec": spec,
        }
    )
    release.remove()
    wait_for(lambda: "clipmounts" not in server.kubectl("api-resources", "-o", "name"))
