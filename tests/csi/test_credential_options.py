"""What the driver's options make of the sources of credentials."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from clipfs import errors
from clipfs.image.mirrors import NO_MIRRORS
from csi.credentials.options import credential_options, providers_of
from csi.credentials.order import CredentialSettings
from csi.credentials.sources import NOBODY, Sources
from tests.support.plugins import Plugins
from tests.support.volumes import Secrets, docker_config_of, volume_of

IMAGE = "h.io/team/app:1"


def given(*words: str) -> dict[str, Any]:
    """The options as a command gets them."""
    found: dict[str, Any] = {}

    @click.command()
    @credential_options
    def command(**options: Any) -> None:
        found.update(options)

    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    return found


def test_without_options_nobody_is_asked() -> None:
    assert given() == {
        "pod_pull_secrets": (),
        "image_credential_provider_config": None,
        "image_credential_provider_bin_dir": None,
        "token_requests": False,
    }
    assert providers_of(None, None) == ()


def test_namespaces_are_as_many_as_are_given() -> None:
    words = ("--pod-pull-secrets", "a", "--pod-pull-secrets", "b", "--token-requests")
    found = given(*words)
    assert (found["pod_pull_secrets"], found["token_requests"]) == (("a", "b"), True)


@pytest.mark.parametrize("text", ["", "Team_A", "a*", "a,b", "-a", "a" * 64, "a.b", "a\n"])
def test_what_is_no_namespace_is_a_usage_error(text: str) -> None:
    @click.command()
    @credential_options
    def command(**_: Any) -> None:
        pass

    done = CliRunner().invoke(command, ["--pod-pull-secrets", text])
    assert (done.exit_code, "is no namespace; write one name" in done.output) == (2, True)


def test_every_namespace_is_a_star() -> None:
    assert given("--pod-pull-secrets", "*")["pod_pull_secrets"] == ("*",)


def test_the_plugins_of_the_file_are_taken_from_the_folder(tmp_path: Path) -> None:
    plugins = Plugins(tmp_path)
    plugins.add("helper", "pass")
    found = given(
        "--image-credential-provider-config", str(plugins.file),
        "--image-credential-provider-bin-dir", str(plugins.folder),
    )  # fmt: skip  # as typed by hand
    config = found["image_credential_provider_config"]
    folder = found["image_credential_provider_bin_dir"]
    assert [one.name for one in providers_of(config, folder)] == ["helper"]
    for one in ((config, None), (None, folder)):
        with pytest.raises(errors.InvalidInput, match="are given together"):
            providers_of(*one)


def in_order(plugins: Plugins, *, secrets: Secrets | None, namespaces: tuple[str, ...]) -> Sources:
    node = plugins.folder.parent / "config.json"
    node.write_bytes(docker_config_of({"h.io": "node"}))
    settings = CredentialSettings(
        namespaces=namespaces,
        providers=providers_of(plugins.file, plugins.folder),
        bin_dir=plugins.folder,
        registry_config=node,
    )
    return settings.sources(secrets, NO_MIRRORS)


def test_each_source_comes_after_those_that_are_nearer_to_the_pod(tmp_path: Path) -> None:
    plugins, cluster = Plugins(tmp_path), Secrets()
    knows = tmp_path / "knows"
    plugins.add("helper", f'answer["cacheDuration"] = "0s"\nif os.path.exists({str(knows)!r}):\n'
                '    answer["auth"] = auth(**{"h.io": "plugin"})')  # fmt: skip  # one plugin
    sources = in_order(plugins, secrets=cluster, namespaces=("team-a",))
    assert sources.choose(volume_of(IMAGE)).source == "the node's docker config"
    knows.write_text("")
    assert sources.choose(volume_of(IMAGE)).source == "credential providers"
    cluster.by_pod["team-a/web"] = [docker_config_of({"h.io": "pull"})]
    assert sources.choose(volume_of(IMAGE)).source == "imagePullSecrets"
    own = volume_of(IMAGE, secrets={"username": "user", "password": "own"})
    assert sources.choose(own).source == "nodePublishSecretRef"
    assert sources.choose(volume_of("g.io/app:1")).source == NOBODY


def test_secrets_that_nobody_can_be_asked_for_are_refused_at_the_start(tmp_path: Path) -> None:
    plugins = Plugins(tmp_path)
    plugins.add("helper", "pass")
    in_order(plugins, secrets=None, namespaces=())
    with pytest.raises(errors.InvalidInput, match="needs a cluster to ask"):
        in_order(plugins, secrets=None, namespaces=("team-a",))
