"""Every value is held by the schema and seen in what is rendered."""

from typing import Any

import pytest

from tests.chart.values import ALL
from tests.support.helm import Values, needs_helm, refusal, rendered

DIGEST = "sha256:" + "b" * 64
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
AFFINITY: Values = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
TOLERATION = [{"key": "some", "operator": "Exists"}]
PROVIDERS = {"configFile": "/etc/providers.yaml", "binDir": "/usr/libexec/providers"}
STORE = "s3://bucket/prefix"

CHANGED: dict[str, Any] = {
    "image.repository": "r.example/clip-csi",
    "image.tag": "7",
    "image.digest": DIGEST,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "ours"}],
    "fullnameOverride": "images",
    "driverName": "images.example.org",
    "kubeletDir": "/data/kubelet",
    "imagesDir": "/data/images",
    "indexKey.existingSecret": "mine",
    "node.logLevel": "debug",
    "node.front": "fuse",
    "node.backgroundFill": "touched",
    "node.maxBytes": "200Gi",
    "node.minFree": "20Gi",
    "node.accessGrace": "1h",
    "node.startupTaint": "clipfs.dev/not-ready",
    "node.metricsPort": 9191,
    "node.hostNetwork": True,
    "node.updateStrategy.type": "RollingUpdate",
    "node.priorityClassName": "",
    "node.resources": {"limits": {"memory": "8Gi"}},
    "node.tolerations": TOLERATION,
    "node.affinity": AFFINITY,
    "node.nodeSelector": {"some": "label"},
    "node.serviceAccount.annotations": {"some": "role"},
    "registries.plainHttp": ["r.example:5000"],
    "registries.mirrors": {"docker.io": 'server = "https://m.example"'},
    "registries.caBundle": PEM,
    "registries.configSecret": "registries",
    "registries.credentialProviders.configFile": "/etc/other.yaml",
    "registries.credentialProviders.binDir": "/opt/providers",
    "registries.credentialProviders.tokenAudiences": ["r.example"],
    "registries.credentialProviders.serviceAccountAnnotations": True,
    "podPullSecrets.namespaces": ["team-a"],
    "policy": '[[rule]]\nimages = ["r.example/*"]\n',
    "contentCache.enabled": False,
    "contentCache.replicas": 3,
    "contentCache.maxBytes": "10Gi",
    "contentCache.logLevel": "debug",
    "contentCache.resources": {"limits": {"memory": "2Gi"}},
    "contentCache.persistence.enabled": True,
    "contentCache.persistence.size": "30Gi",
    "contentCache.persistence.storageClass": "fast",
    "contentCache.antiAffinity": "required",
    "contentCache.affinity": AFFINITY,
    "contentCache.topologySpreadConstraints": [],
    "contentCache.nodeSelector": {"some": "label"},
    "contentCache.tolerations": TOLERATION,
    "contentCache.priorityClassName": "high",
    "contentCache.token.existingSecret": "mine",
    "contentCache.readToken.existingSecret": "mine",
    "contentCache.objectStore.url": STORE,
    "contentCache.objectStore.env": {"AWS_REGION": "eu-central-1"},
    "contentCache.objectStore.envSecret": "bucket",
    "contentCache.objectStore.filesSecret": "bucket",
    "proxy.https": "http://proxy.example:3128",
    "proxy.http": "http://proxy.example:3128",
    "proxy.noProxy": "r.example",
    "selinux.mountContext": "system_u:object_r:container_file_t:s0",
    "openshift.enabled": True,
    "networkPolicy.enabled": False,
    "networkPolicy.metricsFrom": [],
    "networkPolicy.nodeCIDRs": ["10.0.0.0/8"],
    "monitoring.podMonitor.enabled": False,
    "monitoring.podMonitor.labels": {"release": "prometheus"},
    "monitoring.podMonitor.interval": "30s",
    "monitoring.serviceMonitor.enabled": False,
    "monitoring.serviceMonitor.labels": {"release": "prometheus"},
    "monitoring.serviceMonitor.interval": "30s",
    "monitoring.prometheusRule.enabled": False,
    "monitoring.prometheusRule.labels": {"release": "prometheus"},
    "monitoring.dashboard.enabled": False,
    "monitoring.dashboard.labels": {"other": "label"},
    "crds.enabled": False,
}
"""Value -> another than its default."""

BESIDE: dict[str, Values] = {
    "registries.credentialProviders": {"registries": {"credentialProviders": PROVIDERS}},
    "contentCache.persistence.s": {"contentCache": {"persistence": {"enabled": True}}},
    "contentCache.objectStore.e": {"contentCache": {"objectStore": {"url": STORE}}},
    "contentCache.objectStore.f": {"contentCache": {"objectStore": {"url": STORE}}},
    "proxy.noProxy": {"proxy": {"https": "http://proxy.example:3128"}},
    "networkPolicy.nodeCIDRs": {"node": {"hostNetwork": True}},
}
"""Beginning of values -> what they need to count at all."""


def values_of(path: str, value: Any) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    found: Values = value
    return found


def test_every_value_has_a_test_that_changes_it() -> None:
    assert set(CHANGED) == set(ALL)


@needs_helm
@pytest.mark.parametrize("path", CHANGED)
def test_a_changed_value_gives_another_manifest(path: str) -> None:
    beside = [more for begin, more in BESIDE.items() if path.startswith(begin)]
    before = rendered(*beside, operators=True)
    after = rendered(*beside, values_of(path, CHANGED[path]), operators=True)
    assert before != after


@needs_helm
def test_the_same_values_give_the_same_manifest() -> None:
    assert rendered(operators=True) == rendered(operators=True)


@needs_helm
@pytest.mark.parametrize(
    "path", sorted({"", *(path.rpartition(".")[0] for path in ALL), "node.tolerations"})
)
def test_an_unknown_value_is_refused_by_its_name(path: str) -> None:
    if path == "node.tolerations":
        wrong = values_of(path, [{"keyy": "some"}])
        assert "'keyy' not allowed" in refusal(wrong)
        return
    wrong = values_of(f"{path}.unheardOf" if path else "unheardOf", "x")
    assert "'unheardOf' not allowed" in refusal(wrong)


@needs_helm
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("image.digest", "sha256:short"),
        ("image.repository", "r.example/clip@sha256:0"),
        ("image.repository", "https://r.example/clip"),
        ("image.repository", "r.example/clip:7"),
        ("kubeletDir", "var/lib/kubelet"),
        ("imagesDir", "/"),
        ("driverName", "images.example.org/x"),
        ("node.backgroundFill", False),
        ("node.maxBytes", "20G"),
        ("node.minFree", "100%"),
        ("node.accessGrace", "a day"),
        ("node.metricsPort", 0),
        ("node.logLevel", "trace"),
        ("registries.plainHttp", ["http://r.example"]),
        ("registries.mirrors", {"docker.io/library": "x"}),
        ("registries.caBundle", "/etc/ssl/ca.pem"),
        ("podPullSecrets.namespaces", ["team-*"]),
        ("contentCache.replicas", 0),
        ("contentCache.maxBytes", ""),
        ("contentCache.objectStore.url", "https://bucket"),
        ("networkPolicy.metricsFrom", [{}]),
        ("monitoring.podMonitor.enabled", "yes"),
    ],
)
def test_a_wrong_value_is_refused_by_the_schema(path: str, value: Any) -> None:
    said = refusal(values_of(path, value))
    assert "meet the specifications of the schema" in said
    assert f"at '/{path.replace('.', '/')}" in said


@needs_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"registries": {"credentialProviders": {"binDir": "/bin"}}}, "are given together"),
        (
            {"registries": {"credentialProviders": {"tokenAudiences": ["a"]}}},
            "need configFile and binDir",
        ),
        (
            {"contentCache": {"enabled": False, "objectStore": {"url": STORE}}},
            "an object store is a content cache too",
        ),
        (
            {"contentCache": {"maxBytes": "24Gi", "persistence": {"enabled": True}}},
            "size 25Gi is too small for contentCache.maxBytes 24Gi",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_in_words(values: Values, said: str) -> None:
    assert said in refusal(values)
