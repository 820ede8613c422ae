"""Pull secrets of pods, read from a real API server with the rights that manifests give."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from csi.cluster.api import Cluster
from csi.cluster.errors import ApiRefused, ApiRejected
from csi.cluster.pod_secrets import PodSecrets
from csi.pod import Pod
from tests.support.apiserver import ApiServer, docker_config, manifest, needs_apiserver

pytestmark = needs_apiserver


@dataclass(frozen=True, slots=True)
class Tenant:
    """A namespace with a service account `default` that has the pull secret `of-account`."""

    server: ApiServer
    namespace: str

    def secret(self, name: str, kind: str = "kubernetes.io/dockerconfigjson", **data: str) -> None:
        made = data or docker_config(f"{name}.example", "user", f"password of {name}")
        self._apply("Secret", name, type=kind, data=made)

    def pod(self, name: str, *pull_secrets: str, service_account: str = "default") -> Pod:
        spec = {
            "serviceAccountName": service_account,
            "imagePullSecrets": [{"name": one} for one in pull_secrets],
            "containers": [{"name": "c", "image": "none"}],
        }
        self._apply("Pod", name, spec=spec)
        path = "jsonpath={.metadata.uid}"
        uid = self.server.kubectl("get", "pod", "-n", self.namespace, name, "-o", path)
        return Pod(namespace=self.namespace, name=name, uid=uid, service_account=service_account)

    def service_account(self, name: str, *pull_secrets: str, **annotations: str) -> None:
        self._apply(
            "ServiceAccount",
            name,
            annotations=annotations,
            imagePullSecrets=[{"name": one} for one in pull_secrets],
        )

    def _apply(
        self, kind: str, name: str, annotations: dict[str, str] | None = None, **fields: Any
    ) -> None:
        metadata = {"name": name, "namespace": self.namespace, "annotations": annotations or {}}
        self.server.apply({"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields})


def tenant(server: ApiServer, namespace: str) -> Tenant:
    server.kubectl("create", "namespace", namespace)
    made = Tenant(server, namespace)
    made.service_account("default", "of-account")
    made.secret("of-account")
    return made


@pytest.fixture(scope="module")
def opened(api_server: ApiServer) -> Iterator[Tenant]:
    """One whose administrator lets the driver read pull secrets."""
    made = tenant(api_server, "pull-opened")
    role = manifest("examples/pull-secrets.yaml")
    api_server.grant(role, "get", "secrets", namespace=made.namespace)
    yield made
    api_server.withdraw(role, "get", "secrets", namespace=made.namespace)


@pytest.fixture(scope="module")
def closed(api_server: ApiServer) -> Tenant:
    return tenant(api_server, "pull-closed")


@pytest.fixture
def secrets(cluster: Cluster) -> PodSecrets:
    return PodSecrets(cluster)


def hosts(configs: list[bytes]) -> list[str]:
    """The registries in the order in which the configs name them."""
    return [host for config in configs for host in json.loads(config)["auths"]]


def test_a_pod_s_secrets_come_before_its_service_account_s(
    opened: Tenant, secrets: PodSecrets
) -> None:
    opened.secret("of-pod")
    configs = secrets.pull_secrets(opened.pod("both", "of-pod"), on_lack=print)
    assert hosts(configs) == ["of-pod.example", "of-account.example"]
    auth = json.loads(configs[0])["auths"]["of-pod.example"]["auth"]
    assert base64.b64decode(auth) == b"user:password of of-pod"


def test_a_pod_that_names_none_has_its_service_account_s_once(
    opened: Tenant, secrets: PodSecrets
) -> None:
    assert hosts(secrets.pull_secrets(opened.pod("none"), on_lack=print)) == ["of-account.example"]


def test_a_legacy_dockercfg_is_given_as_a_docker_config(
    opened: Tenant, secrets: PodSecrets
) -> None:
    legacy = base64.b64encode(b'{"old.example": {"auth": "dTpw"}}').decode()
    opened.secret("legacy", "kubernetes.io/dockercfg", **{".dockercfg": legacy})
    configs = secrets.pull_secrets(opened.pod("legacy", "legacy"), on_lack=print)
    assert json.loads(configs[0]) == {"auths": {"old.example": {"auth": "dTpw"}}}


def test_what_is_missing_or_no_pull_secret_is_passed_over_with_a_warning(
    opened: Tenant, secrets: PodSecrets, capsys: pytest.CaptureFixture[str]
) -> None:
    opened.secret("opaque", "Opaque", password="aHVzaC1odXNo")
    pod = opened.pod("sparse", "absent", "opaque")
    assert hosts(secrets.pull_secrets(pod, on_lack=print)) == ["of-account.example"]
    said = "".join(capsys.readouterr())
    assert "absent" in said
    assert "opaque" in said
    assert "hush" not in said
    assert "aHVzaC1odXNo" not in said


def test_a_rotated_secret_is_seen_at_the_next_look(opened: Tenant, secrets: PodSecrets) -> None:
    opened.secret("rotated")
    pod = opened.pod("rotated", "rotated")
    before = secrets.pull_secrets(pod, on_lack=print)[0]
    opened.secret("rotated", **docker_config("rotated.example", "user", "another"))
    assert secrets.pull_secrets(pod, on_lack=print)[0] != before


def test_another_pod_of_that_name_gives_nothing(opened: Tenant, secrets: PodSecrets) -> None:
    pod = opened.pod("replaced")
    for uid in ("00000000-0000-0000-0000-000000000000", ""):
        other = Pod(namespace=pod.namespace, name=pod.name, uid=uid, service_account="default")
        with pytest.raises(ApiRejected, match="not the one that the kubelet means"):
            secrets.pull_secrets(other, on_lack=print)


def test_annotations_of_the_service_account_are_told(opened: Tenant, secrets: PodSecrets) -> None:
    opened.service_account("annotated", **{"example.com/role": "puller"})
    pod = opened.pod("annotated", service_account="annotated")
    assert secrets.service_account_annotations(pod)["example.com/role"] == "puller"


def test_a_namespace_without_the_role_is_closed_and_the_error_names_the_role(
    closed: Tenant, opened: Tenant, secrets: PodSecrets
) -> None:
    pod = closed.pod("wants", "of-account")
    with pytest.raises(ApiRefused) as refusal:
        secrets.pull_secrets(pod, on_lack=print)
    assert "pull-closed" in str(refusal.value)
    assert "clip-pull-secrets" in str(refusal.value)
    assert "podPullSecrets.namespaces" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ApiRefused, match="clip-pull-secrets"):
        secrets.service_account_annotations(pod)


def test_a_secret_of_a_closed_namespace_is_refused_by_the_api_server_itself(
    closed: Tenant, opened: Tenant, cluster: Cluster
) -> None:
    assert cluster.secret(opened.namespace, "of-account") is not None
    with pytest.raises(ApiRefused, match=r"cannot get resource .secrets."):
        cluster.secret(closed.namespace, "of-account")


def test_a_role_that_is_taken_away_closes_at_once(
    api_server: ApiServer, secrets: PodSecrets
) -> None:
    made = tenant(api_server, "pull-closing")
    role = manifest("examples/pull-secrets.yaml")
    api_server.grant(role, "get", "secrets", namespace=made.namespace)
    pod = made.pod("wants")
    assert hosts(secrets.pull_secrets(pod, on_lack=print)) == ["of-account.example"]
    api_server.withdraw(role, "get", "secrets", namespace=made.namespace)
    with pytest.raises(ApiRefused):
        secrets.pull_secrets(pod, on_lack=print)
