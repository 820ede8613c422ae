"""Privilege where it is needed, with its reason beside it; everything else has none."""

import re
from typing import Any

import pytest

from tests.support.helm import (
    CHART,
    Object,
    container,
    needs_helm,
    pod_spec,
    rendered,
    sets_of_values,
    text_of,
    the,
)

MATRIX = sets_of_values()
each_set = pytest.mark.parametrize("name", MATRIX)
TEMPLATES = {
    str(path.relative_to(CHART / "templates")): path.read_text()
    for path in (CHART / "templates").rglob("*.yaml")
}


def _pods(objects: list[Object]) -> dict[str, dict[str, Any]]:
    return {
        one["kind"]: one["spec"]["template"]["spec"]
        for one in objects
        if "template" in one.get("spec", {})
    }


@needs_helm
@each_set
def test_each_pod_has_one_container_and_a_probe_of_readiness_alone(name: str) -> None:
    pods = _pods(rendered(MATRIX[name]))
    assert "DaemonSet" in pods
    for spec in pods.values():
        assert "initContainers" not in spec
        [only] = spec["containers"]
        assert {key for key in only if key.endswith("Probe")} == {"readinessProbe"}
        assert only["securityContext"]["readOnlyRootFilesystem"] is True
        assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        assert spec["enableServiceLinks"] is False


@needs_helm
@each_set
def test_only_the_node_plugin_is_privileged_and_sees_folders_of_the_node(name: str) -> None:
    pods = _pods(rendered(MATRIX[name]))
    privileged = container(rendered(MATRIX[name]), "DaemonSet")["securityContext"]
    assert privileged == {"privileged": True, "readOnlyRootFilesystem": True}
    for kind, spec in pods.items():
        host = [volume for volume in spec["volumes"] if "hostPath" in volume]
        assert bool(host) is (kind == "DaemonSet")


@needs_helm
def test_the_content_cache_has_no_privilege_at_all() -> None:
    spec = pod_spec(rendered(), "StatefulSet", "clip-content-cache")
    pod, own = spec["securityContext"], spec["containers"][0]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["runAsGroup"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in spec


@needs_helm
def test_mounts_reach_the_node_from_two_folders_and_no_other_is_written() -> None:
    mounts = container(rendered(MATRIX["everything"]), "DaemonSet")["volumeMounts"]
    both = {one["mountPath"] for one in mounts if "mountPropagation" in one}
    assert both == {"/data/kubelet", "/images"}
    assert all(one.get("readOnly") for one in mounts if one["mountPath"] not in both)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("node/daemonset.yaml", r"privileged: true"),
        ("node/daemonset.yaml", r"mountPropagation: Bidirectional"),
        ("node/daemonset.yaml", r"hostNetwork: true"),
        ("node/daemonset.yaml", r"automountServiceAccountToken: true"),
        ("node/daemonset.yaml", r"readinessProbe:"),
        ("content-cache/statefulset.yaml", r"readinessProbe:"),
        ("node/scc-rolebinding.yaml", r"name: system:openshift:\S+"),
        ("content-cache/scc-rolebinding.yaml", r"name: system:openshift:\S+"),
        ("csidriver.yaml", r"\S+/csi-ephemeral-volume-profile: \S+"),
    ],
)
def test_what_is_allowed_has_its_reason_beside_it(file: str, line: str) -> None:
    found = re.findall(rf"^ +{line}(.*)$", TEMPLATES[file], re.MULTILINE)
    assert found
    assert [rest for rest in found if not re.fullmatch(r" # .{10,}", rest)] == []


@needs_helm
def test_secrets_reach_containers_as_files_of_their_own_user_and_never_as_words() -> None:
    objects = rendered(MATRIX["everything"])
    for kind, mode in (("DaemonSet", 0o400), ("StatefulSet", 0o440)):
        volumes = _pods(objects)[kind]["volumes"]
        modes = {one["secret"]["defaultMode"] for one in volumes if "secret" in one}
        assert modes == {mode}
        assert "secretKeyRef" not in str(_pods(objects)[kind])


@needs_helm
def test_the_index_key_is_in_no_pod_but_the_node_plugins() -> None:
    pods = _pods(rendered())
    assert "index-key" in str(pods["DaemonSet"]["volumes"])
    assert "index-key" not in str(pods["StatefulSet"])
    assert "read-token" not in str(pods["DaemonSet"])


@needs_helm
def test_without_a_content_cache_nothing_of_it_is_made() -> None:
    objects = rendered({"contentCache": {"enabled": False}}, operators=True)
    names = [one["metadata"]["name"] for one in objects]
    assert [name for name in names if "content-cache" in name or "index-key" in name] == []
    assert [one for one in objects if one["kind"] in ("Secret", "StatefulSet")] == []
    words = container(objects, "DaemonSet")["args"]
    assert [word for word in words if "content-cache" in word or "index-key" in word] == []


@needs_helm
def test_an_object_store_takes_the_place_of_the_statefulset() -> None:
    objects = rendered(MATRIX["s3"], operators=True)
    kinds = {one["kind"] for one in objects}
    assert not kinds & {"StatefulSet", "Service", "PodDisruptionBudget", "ServiceMonitor"}
    node = container(objects, "DaemonSet")
    assert "--content-cache=s3://layers/clip" in node["args"]
    assert node["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert {"name": "AWS_REGION", "value": "eu-central-1"} in node["env"]


@needs_helm
def test_the_content_cache_answers_node_plugins_and_scrapers_and_asks_nobody() -> None:
    policy = the(rendered(), "NetworkPolicy", "clip-content-cache")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    [rule] = policy["ingress"]
    node, scraper = rule["from"]
    daemonset = the(rendered(), "DaemonSet", "clip-node")["spec"]["template"]["metadata"]["labels"]
    assert node == {"podSelector": {"matchLabels": daemonset}}
    assert "prometheus" in str(scraper)


@needs_helm
def test_on_the_nodes_network_the_policy_names_their_networks_or_nobody() -> None:
    on_node = {"node": {"hostNetwork": True}}
    [rule] = the(rendered(on_node), "NetworkPolicy", "clip-content-cache")["spec"]["ingress"]
    assert "from" not in rule
    named = rendered(on_node, {"networkPolicy": {"nodeCIDRs": ["10.0.0.0/8"]}})
    [rule] = the(named, "NetworkPolicy", "clip-content-cache")["spec"]["ingress"]
    assert rule["from"][0] == {"ipBlock": {"cidr": "10.0.0.0/8"}}
    spec = pod_spec(named, "DaemonSet", "clip-node")
    assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert "clip-node" not in {
        one["metadata"]["name"] for one in named if one["kind"] == "NetworkPolicy"
    }


@needs_helm
def test_replicas_are_apart_and_one_at_a_time_may_go() -> None:
    objects = rendered()
    spec = pod_spec(objects, "StatefulSet", "clip-content-cache")
    labels = the(objects, "StatefulSet", "clip-content-cache")["spec"]["selector"]["matchLabels"]
    [term] = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == labels
    [spread] = spec["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    budget = the(objects, "PodDisruptionBudget", "clip-content-cache")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == labels


@needs_helm
@pytest.mark.parametrize(
    ("max_bytes", "limit"), [("20Gi", 22 << 30), ("1000", 1100), ("3Ti", (3 << 40) * 11 // 10)]
)
def test_the_folder_of_objects_has_room_for_more_than_its_limit(max_bytes: str, limit: int) -> None:
    objects = rendered({"contentCache": {"maxBytes": max_bytes}})
    volumes = pod_spec(objects, "StatefulSet", "clip-content-cache")["volumes"]
    [folder] = [one["emptyDir"] for one in volumes if "emptyDir" in one]
    assert int(folder["sizeLimit"]) == limit


@needs_helm
def test_volumes_of_replicas_go_with_them() -> None:
    spec = the(rendered(MATRIX["everything"]), "StatefulSet", "images-content-cache")["spec"]
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Delete"}
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"


@needs_helm
def test_behind_a_proxy_the_cluster_itself_is_reached_without() -> None:
    env = container(rendered(MATRIX["everything"]), "DaemonSet")["env"]
    [no_proxy] = [one["value"] for one in env if one["name"] == "NO_PROXY"]
    assert no_proxy.split(",") == [
        *("registry.example", "10.0.0.0/8", "$(KUBERNETES_SERVICE_HOST)", ".svc")
    ]


@needs_helm
def test_mirrors_lie_as_the_driver_looks_for_them() -> None:
    objects = rendered(MATRIX["everything"])
    volumes = pod_spec(objects, "DaemonSet", "images-node")["volumes"]
    [items] = [one["configMap"]["items"] for one in volumes if one["name"] == "mirrors"]
    assert [one["path"] for one in items] == [
        *("docker.io/hosts.toml", "registry.example_5000_/hosts.toml")
    ]
    data = the(objects, "ConfigMap", "images-node-mirrors")["data"]
    assert set(data) == {one["key"] for one in items}


@needs_helm
def test_tokens_are_asked_for_and_believed_together() -> None:
    for name in ("defaults", "everything"):
        objects = rendered(MATRIX[name])
        [driver] = [one["spec"] for one in objects if one["kind"] == "CSIDriver"]
        asked = [one["audience"] for one in driver.get("tokenRequests", ())]
        believed = "--token-requests" in container(objects, "DaemonSet")["args"]
        assert believed is bool(asked)
        assert driver["requiresRepublish"]  # secrets change, tokens or not
        assert bool(asked) is (name == "everything")


@needs_helm
def test_no_random_bytes_are_outside_of_secrets() -> None:
    one, other = (
        text_of({"image": {"tag": tag}}).replace(tag, "x") for tag in ("first-tag", "other-tag")
    )
    differing = {
        line.split(":")[0].strip()
        for line, before in zip(one.splitlines(), other.splitlines(), strict=True)
        if line != before
    }
    assert differing == {"key", "token"}
