"""Each set of values in charts/clip-csi/ci gives objects that the newest Kubernetes minors take."""

import re
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml

from tests.support.helm import (
    CHART,
    MINORS,
    OPERATORS,
    helm,
    needs_helm,
    refusal,
    rendered,
    sets_of_values,
    text_of,
    the,
)

pytestmark = needs_helm

MATRIX = sets_of_values()
OF_OPERATORS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}

each_set = pytest.mark.parametrize("name", MATRIX)


def test_the_matrix_is_whole() -> None:
    assert set(MATRIX) == {"defaults", "everything", "s3", "openshift", "air-gapped"}


@each_set
def test_helm_lint_has_no_complaint(name: str) -> None:
    said = helm("lint", "--strict", str(CHART), "--values", str(CHART / f"ci/{name}-values.yaml"))
    assert "0 chart(s) failed" in said


@each_set
@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("operators", [False, True], ids=["no operators", "operators"])
def test_every_object_is_valid_to_the_letter(name: str, minor: str, operators: bool) -> None:
    checked, kinds = 0, set()
    for one in rendered(MATRIX[name], operators=operators):
        try:
            kubernetes_validate.validate(one, minor, strict=True)
            checked += 1
        except kubernetes_validate.SchemaNotFoundError:
            kinds.add(one["kind"])
    assert kinds <= OF_OPERATORS, "Kubernetes' own schemas know all others"
    assert checked >= 8


def test_the_validation_sees_a_wrong_field() -> None:
    [wrong] = [one for one in rendered(MATRIX["defaults"]) if one["kind"] == "DaemonSet"]
    wrong["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, MINORS[-1], strict=True)


@pytest.mark.parametrize("operators", [False, True])
def test_objects_of_operators_come_with_their_operators_or_when_asked_for(operators: bool) -> None:
    kinds = {one["kind"] for one in rendered(MATRIX["defaults"], operators=operators)}
    assert kinds & OF_OPERATORS == (OF_OPERATORS if operators else set())
    never = {"monitoring": {key: {"enabled": False} for key in MONITORING}}
    assert not OF_OPERATORS & {one["kind"] for one in rendered(never, operators=True)}
    asked = {one["kind"] for one in rendered(MATRIX["everything"])}
    assert asked >= OF_OPERATORS


MONITORING = ("podMonitor", "serviceMonitor", "prometheusRule", "dashboard")


def test_each_template_has_one_kind() -> None:
    by_file: dict[str, set[str]] = {}
    for name in MATRIX:
        for file, kind in _sources(text_of(MATRIX[name], operators=True)):
            by_file.setdefault(file, set()).add(kind)
    assert {file: kinds for file, kinds in by_file.items() if len(kinds) > 1} == {}
    files = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    never = files - by_file.keys() - _of_all_namespaces()
    assert never == set(), "no set of values renders these"


def _of_all_namespaces() -> set[str]:
    """What `podPullSecrets.namespaces` renders without "*", which the matrix has."""
    return {
        f"templates/node/pull-secrets-{kind}.yaml"
        for kind in ("role", "rolebinding")
        if rendered({"podPullSecrets": {"namespaces": ["team-a"]}})
    }


def _sources(text: str) -> Iterator[tuple[str, str]]:
    for part in text.split("\n---\n"):
        source = re.search(r"^# Source: clip-csi/(.*)$", part, re.MULTILINE)
        found = yaml.safe_load(part)
        if source and found:
            yield source[1], found["kind"]


def test_all_objects_of_one_release_bear_its_name_and_nobody_elses() -> None:
    for one in rendered(MATRIX["everything"], {"fullnameOverride": ""}, operators=True):
        metadata = one["metadata"]
        own = metadata["name"].startswith("clip-") or metadata["name"] == "clip"
        assert own or one["kind"] in ("CSIDriver", "CustomResourceDefinition"), metadata["name"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == "clip"


def test_the_longest_name_of_a_release_leaves_room_for_what_kubernetes_adds() -> None:
    """A label of a StatefulSet's pods is its name, a dash and ten digits of a revision."""
    text = helm("template", "n" * 53, str(CHART), "--api-versions", OPERATORS)
    objects = [one for one in yaml.safe_load_all(text) if one is not None]
    [replicas] = [one["metadata"]["name"] for one in objects if one["kind"] == "StatefulSet"]
    assert len(replicas) + 11 <= 63
    assert max(len(one["metadata"]["name"]) for one in objects) <= 63
    longest = "n" * len(replicas.removesuffix("-content-cache"))
    the(rendered({"fullnameOverride": longest}), "StatefulSet", replicas)
    assert "does not match pattern" in refusal({"fullnameOverride": f"{longest}n"})


def test_the_image_is_pinned_by_its_digest() -> None:
    digest = "sha256:" + "a" * 64
    named = {"repository": "r.example/clip"}
    for more, shown in (
        ({}, "r.example/clip:0.1.0"),
        ({"tag": "7"}, "r.example/clip:7"),
        ({"digest": digest}, f"r.example/clip@{digest}"),
        ({"tag": "7", "digest": digest}, f"r.example/clip:7@{digest}"),
    ):
        found = rendered({"image": {**named, **more}})
        images = {
            one["spec"]["template"]["spec"]["containers"][0]["image"]
            for one in found
            if one["kind"] in ("DaemonSet", "StatefulSet")
        }
        assert images == {shown}
