"""`manifests/clip-csi.yaml` is the chart, as `make manifests` renders it, and holds no secret."""

import os
import subprocess
from pathlib import Path

import yaml

from tests.support.helm import HELM, needs_helm, rendered

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "manifests/clip-csi.yaml").read_text()
OBJECTS = [one for one in yaml.safe_load_all(TEXT) if one]


@needs_helm
def test_the_manifests_are_as_the_chart_renders_them() -> None:
    assert HELM is not None
    environ = {**os.environ, "CLUSTER_BIN": str(Path(HELM).parent)}
    said = subprocess.run(
        [ROOT / "charts/render"], capture_output=True, text=True, check=True, env=environ
    ).stdout
    assert said == TEXT, "run `make manifests`"


@needs_helm
def test_they_are_what_helm_installs_but_for_the_namespace_and_the_secrets() -> None:
    ours = {(one["kind"], one["metadata"]["name"]): one for one in OBJECTS}
    helms = {(one["kind"], one["metadata"]["name"]): one for one in rendered()}
    secrets = {key for key in helms if key[0] == "Secret"}
    assert len(secrets) == 3
    assert ours.keys() - helms.keys() == {("Namespace", "clip")}
    assert helms.keys() - ours.keys() == secrets
    assert all(helms[key] == ours[key] for key in helms.keys() - secrets)


def test_they_say_how_to_make_each_secret_that_they_use() -> None:
    used = {
        (volume["secret"]["secretName"])
        for one in OBJECTS
        if "template" in one.get("spec", {})
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    assert used == {"clip-index-key", "clip-content-cache-token", "clip-content-cache-read-token"}
    said = TEXT.partition("---")[0]
    assert all(f"{name.removeprefix('clip-')}:" in said for name in used)


def test_every_object_of_a_namespace_names_it() -> None:
    of_the_cluster = {
        *("CSIDriver", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"),
        "Namespace",
    }
    for one in OBJECTS:
        named = one["metadata"].get("namespace")
        assert named == (None if one["kind"] in of_the_cluster else "clip")
