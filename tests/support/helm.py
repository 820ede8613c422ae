"""The chart as the real helm renders it, into objects as a cluster gets them."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.cluster_programs import BIN, missing

HELM = shutil.which("helm") if missing("helm") else str(BIN / "helm")

needs_helm = pytest.mark.skipif(
    HELM is None, reason="needs helm, in PATH or by `make cluster-programs`"
)

CHART = Path(__file__).parents[2] / "charts/clip-csi"
OPERATORS = "monitoring.coreos.com/v1"

_MAJOR, _NEWEST = kubernetes_validate.latest_version().split(".")[:2]
MINORS = [f"{_MAJOR}.{int(_NEWEST) - back}" for back in (2, 1, 0)]
"""The three newest of Kubernetes whose schemas there are."""

Values = dict[str, Any]
Object = dict[str, Any]


def helm(*words: str, input: str = "", env: dict[str, str] | None = None) -> str:
    """What helm says; AssertionError with its complaint if it fails."""
    done = run_helm(*words, input=input, env=env)
    assert done.returncode == 0, f"helm {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def run_helm(
    *words: str, input: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    environ = {**os.environ, **(env or {})}
    return subprocess.run(
        [HELM, *words], input=input, capture_output=True, text=True, check=False, env=environ
    )


def text_of(*values: Values, operators: bool = False) -> str:
    """What `helm template` prints for these values, the later ones on top."""
    return _text_of(json.dumps(merged(*values)), operators)


@cache
def _text_of(values: str, operators: bool) -> str:
    words = ["template", "clip", str(CHART), "--namespace", "clip", "--values", "-"]
    words += ["--api-versions", OPERATORS] if operators else []
    return helm(*words, input=values)


def rendered(*values: Values, operators: bool = False) -> list[Object]:
    """Its objects, with the same in the place of whatever was made at random."""
    text = text_of(*values, operators=operators)
    return [_pinned(one) for one in yaml.safe_load_all(text) if one is not None]


def refusal(*values: Values) -> str:
    """Helm's complaint of these values, which must not be rendered."""
    words = ("template", "clip", str(CHART), "--values", "-")
    done = run_helm(*words, input=json.dumps(merged(*values)))
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def merged(*values: Values) -> Values:
    """As helm merges files of values: maps by key, all else replaced."""
    found: Values = {}
    for one in values:
        for key, value in one.items():
            before = found.get(key)
            both = isinstance(before, dict) and isinstance(value, dict)
            found[key] = merged(before, value) if both else value  # type: ignore[arg-type] # both
    return found


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    [found] = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_spec(objects: list[Object], kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = the(objects, kind, name)["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object], kind: str) -> dict[str, Any]:
    """The only container of the only object of that kind."""
    [owner] = [one for one in objects if one["kind"] == kind]
    [only] = owner["spec"]["template"]["spec"]["containers"]
    return dict(only)


def sets_of_values() -> dict[str, Values]:
    """The matrix: name -> values, of charts/clip-csi/ci."""
    return {
        path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text())
        for path in sorted((CHART / "ci").glob("*-values.yaml"))
    }


def _pinned(one: Object) -> Object:
    if one["kind"] == "Secret":
        one["data"] = {key: "cGlubmVk" for key in one["data"]}
    return one
