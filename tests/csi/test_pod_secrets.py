"""Which of a pod's pull secrets are read, without an API server; with one: `cluster/`."""

import base64
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from clipfs import errors
from csi.cluster.api import Json
from csi.cluster.errors import ApiRejected, ApiUnavailable
from csi.cluster.pod_secrets import PodSecrets
from tests.support.reports import pod_named


@dataclass(slots=True)
class MemoryPods:
    """One namespace: names of pods, service accounts and secrets, and what they are."""

    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_down: bool = False

    def pod(self, namespace: str, name: str) -> Json | None:
        if self.is_down:
            raise ApiUnavailable("the API server does not answer")
        return self.pods.get(name)

    def service_account(self, namespace: str, name: str) -> Json | None:
        return self.accounts.get(name)

    def secret(self, namespace: str, name: str) -> Json | None:
        return self.secrets.get(name)


POD = replace(pod_named("web"), service_account="runner")


@pytest.fixture
def api() -> MemoryPods:
    data = {".dockerconfigjson": base64.b64encode(b'{"auths":{}}').decode()}
    secret = {"type": "kubernetes.io/dockerconfigjson", "data": data}
    spec = {"imagePullSecrets": [{"name": "of-pod"}]}
    return MemoryPods(
        pods={"web": {"metadata": {"uid": POD.uid}, "spec": spec}},
        accounts={"runner": {"metadata": {}, "imagePullSecrets": [{"name": "of-account"}]}},
        secrets={"of-pod": secret, "of-account": secret},
    )


def test_both_are_read(api: MemoryPods) -> None:
    assert PodSecrets(api).pull_secrets(POD, on_lack=print) == [b'{"auths":{}}'] * 2


@pytest.mark.parametrize("uid", ["of-another", ""])
def test_another_pod_of_that_name_gives_nothing(api: MemoryPods, uid: str) -> None:
    with pytest.raises(ApiRejected, match="not the one that the kubelet means"):
        PodSecrets(api).pull_secrets(replace(POD, uid=uid), on_lack=print)


def test_a_pod_that_is_gone_gives_nothing(api: MemoryPods) -> None:
    api.pods.clear()
    with pytest.raises(ApiRejected, match="absent"):
        PodSecrets(api).pull_secrets(POD, on_lack=print)


def test_a_service_account_that_is_gone_leaves_the_pod_s_own(api: MemoryPods) -> None:
    api.accounts.clear()
    assert len(PodSecrets(api).pull_secrets(POD, on_lack=print)) == 1
    assert PodSecrets(api).service_account_annotations(POD) == {}


def test_an_api_server_that_is_away_is_no_reason_to_go_on_without(api: MemoryPods) -> None:
    api.is_down = True
    with pytest.raises(ApiUnavailable):
        PodSecrets(api).pull_secrets(POD, on_lack=print)


@pytest.mark.parametrize("data", [{}, None, {".dockerconfigjson": "no base64!"}], ids=str)
def test_a_malformed_secret_is_passed_over(api: MemoryPods, data: object) -> None:
    api.secrets["of-pod"] = {"type": "kubernetes.io/dockerconfigjson", "data": data}
    assert len(PodSecrets(api).pull_secrets(POD, on_lack=print)) == 1


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        (None, "pull secret of-pod of pod {} is not there"),
        ({"type": "Opaque", "data": {}}, "secret of-pod of pod {} is no pull secret: it has type "
         "Opaque"),
        ({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "hush!"}},
         "pull secret of-pod of pod {} has no .dockerconfigjson, or none in base64"),
    ],
    ids=["absent", "type", "data"],
)  # fmt: skip  # one row a secret
def test_which_secret_is_none_and_why_is_told(
    api: MemoryPods, secret: dict[str, Any] | None, told: str
) -> None:
    api.secrets.pop("of-pod")
    if secret is not None:
        api.secrets["of-pod"] = secret
    lacks = list[str]()
    assert len(PodSecrets(api).pull_secrets(POD, on_lack=lacks.append)) == 1
    assert lacks == [told.format(POD)]


def test_a_pull_secret_that_is_no_docker_config_is_named_and_not_quoted(api: MemoryPods) -> None:
    data = base64.b64encode(b'{"auths":{"h.io":{"auth":"hush!"}}}').decode()
    api.secrets["of-pod"] = {
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": data},
    }
    with pytest.raises(errors.InvalidInput, match="pull secret of-pod of pod ") as caught:
        PodSecrets(api).pull_secrets(POD, on_lack=print)
    assert "hush" not in str(caught.value)


def test_nothing_of_a_secret_is_in_a_log(
    api: MemoryPods, capsys: pytest.CaptureFixture[str]
) -> None:
    api.secrets["of-pod"] = {"type": "Opaque", "data": {"password": "aHVzaC1odXNo"}}
    PodSecrets(api).pull_secrets(POD, on_lack=print)
    said = "".join(capsys.readouterr())
    assert "of-pod" in said
    assert "aHVzaC1odXNo" not in said
    assert "password" not in said
