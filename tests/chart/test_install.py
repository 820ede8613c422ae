"""docs/install.md and docs/tutorial.md: each helm command is rendered, with the files it names."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.record import commands
from tests.docs.texts import DOCS, ROOT, fenced, named
from tests.support.cluster_programs import BIN, missing
from tests.support.helm import (
    Object,
    helm,
    needs_helm,
    rendered,
    the,
)

pytestmark = needs_helm

INSTALL = DOCS["install.md"]
FILES = {
    **named(INSTALL),
    "ca.pem": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
}
"""What a reader has beside the checkout: what the page shows, and a certificate."""

OF_THE_CLUSTER = {"--install", "--create-namespace", "--wait", "--hide-notes"}
"""Words that say nothing of what is rendered."""


def _commands() -> list[list[str]]:
    text = "".join(fenced(INSTALL, "sh")).replace("\\\n", "")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("helm ")]
    return [words for words in lines if words[1] != "uninstall"]


COMMANDS = [pytest.param(words, id=" ".join(words[3:])[-60:]) for words in _commands()]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the reader's files in it."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for name in ("charts", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _rendered(words: list[str]) -> list[Object]:
    """Of `helm install` or `helm upgrade --install`."""
    given = [word for word in words[2:] if word not in OF_THE_CLUSTER]
    return [one for one in yaml.safe_load_all(helm("template", *given)) if one is not None]


def test_the_page_has_a_command_for_each_decision() -> None:
    assert len(COMMANDS) >= 14
    values = {name for name in FILES if name.endswith("-values.yaml")}
    assert len(values) >= 7
    assert values <= {word for words in _commands() for word in words}, "each file is used"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_rendered_with_the_image_that_it_names(words: list[str], beside: Path) -> None:
    objects = _rendered(words)
    images = re.findall(r"'image': '([^']*)'", str(objects))
    assert "DaemonSet" in {one["kind"] for one in objects}
    assert images
    assert all(re.match(r"(registry|inside)\.example[:\d]*/clip-csi[:@]", one) for one in images)


def test_the_tutorials_command_is_rendered_for_its_own_registry(beside: Path) -> None:
    said = commands("".join(fenced(DOCS["tutorial.md"], "console")))
    [words] = [shlex.split(one) for one in said if one.startswith("helm install ")]
    objects = str(_rendered(words))
    assert "'image': '10.88.0.1:5000/clip-csi:0.1.0'" in objects
    assert "--plain-http=10.88.0.1:5000" in objects


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith("-values.yaml")))
def test_a_file_of_values_changes_what_is_rendered(name: str, beside: Path) -> None:
    values = yaml.safe_load(FILES["clip-values.yaml"])
    more = yaml.safe_load(FILES[name])
    assert name == "clip-values.yaml" or rendered(values, more) != rendered(values)


@pytest.mark.skipif(bool(missing("kubectl")), reason="needs kubectl, by `make cluster-programs`")
def test_the_kustomization_names_our_image_and_adds_the_option(beside: Path) -> None:
    words = [str(BIN / "kubectl"), "kustomize", "--load-restrictor=LoadRestrictionsNone", "."]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    objects = list(yaml.safe_load_all(done.stdout))
    [node] = the(objects, "DaemonSet", "clip-node")["spec"]["template"]["spec"]["containers"]
    assert node["image"] == "registry.example/clip-csi:0.1.0"
    assert "--plain-http=registry.internal:5000" in node["args"]
