"""Asking as a volume: what is shown to the registry, when it is asked twice, what is said."""

from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from csi.cluster.errors import ApiUnavailable
from csi.credentials.asking import Asking
from csi.credentials.node_config import NodeConfig
from csi.credentials.pull_secrets import PullSecrets
from csi.credentials.sources import Source, Sources
from tests.support.plugins import Plugins
from tests.support.volumes import POD, Secrets, docker_config_of, volume_of

IMAGE = "h.io/team/app:1"


class Registry:
    """Opens to one password; `shown` are those that it saw, None for nobody's."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.shown: list[str | None] = []
        self.refusal: errors.ClipError = errors.Unauthenticated("h.io wants other ones")

    def ask(self, config: RegistryConfig) -> str:
        found = config.for_repository("h.io", "team/app")
        self.shown.append(found.password if found else None)
        if self.shown[-1] != self.password:
            raise self.refusal
        return "image"


def asking(plugins: Plugins, node: Path) -> Asking:
    sources: list[Source] = [plugins.opened(), NodeConfig(node)]
    made = Sources(sources, hosts_of=lambda registry: [registry])
    return Asking(made, namespaces=[])


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_bytes(docker_config_of({}))
    return tmp_path / "config.json"


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    """A plugin that says p1, p2 and so on; each answer may be remembered for ten minutes."""
    made = Plugins(tmp_path)
    made.add("helper", 'answer["auth"] = auth(**{"h.io": f"p{calls}"})')
    return made


def test_an_answer_from_memory_that_is_refused_is_asked_for_anew(
    plugins: Plugins, node: Path
) -> None:
    registry, ask = Registry("p1"), asking(plugins, node)
    ask.ask(volume_of(IMAGE), registry.ask)
    registry.password = "p2"
    answer, chosen = ask.ask(volume_of(IMAGE), registry.ask)
    assert answer == "image"
    assert registry.shown == ["p1", "p1", "p2"]
    assert chosen.config.for_repository("h.io", "team/app") is not None
    ask.ask(volume_of(IMAGE), registry.ask)
    assert registry.shown[-1] == "p2"


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        (errors.Unauthenticated, "correct them there, or let that account pull"),
        (errors.AccessDenied, "let that account pull, or give the volume another"),
    ],
)
def test_what_is_refused_twice_is_told_with_its_source(
    kind: type[errors.ClipError], way_out: str, plugins: Plugins, node: Path
) -> None:
    registry = Registry("none of them")
    registry.refusal = kind("h.io refuses")
    with pytest.raises(kind) as caught:
        asking(plugins, node).ask(volume_of(IMAGE), registry.ask)
    whose = "h.io refuses; the credentials came from credential providers: "
    setting = ", or let the driver read the pod's imagePullSecrets by adding its namespace team-a"
    assert str(caught.value) == f"{whose}{way_out}{setting} to podPullSecrets.namespaces"
    assert registry.shown == ["p1", "p2"]


def test_of_several_pull_secrets_one_that_is_refused_does_not_hide_the_next() -> None:
    secrets = Secrets(by_pod={str(POD): [docker_config_of({"h.io": one}) for one in "abc"]})
    made = Sources([PullSecrets(secrets, ["*"])], hosts_of=lambda registry: [registry])
    registry = Registry("b")
    _, chosen = Asking(made, namespaces=["*"]).ask(volume_of(IMAGE), registry.ask)
    found = chosen.config.for_repository("h.io", "team/app")
    assert (registry.shown, found and found.password) == (["a", "b"], "b")
    registry = Registry("none of them")
    with pytest.raises(errors.Unauthenticated, match="came from imagePullSecrets: correct"):
        Asking(made, namespaces=["*"]).ask(volume_of(IMAGE), registry.ask)
    assert registry.shown == ["a", "b", "c"]


def test_who_does_not_answer_is_not_asked_again_at_once(plugins: Plugins, node: Path) -> None:
    """A plugin that hangs takes a minute each time."""
    plugins.add("helper", "sys.exit(1)")
    plugins.providers.pop(0)
    plugins.write({})
    registry = Registry("none")
    with pytest.raises(errors.Unauthenticated, match="helper ended with status 1"):
        asking(plugins, node).ask(volume_of(IMAGE), registry.ask)
    assert (len(plugins.calls("helper")), registry.shown) == (1, [None])


def test_while_the_api_server_is_away_a_public_image_is_let_in_and_another_one_waits(
    node: Path,
) -> None:
    """Asked without credentials, once, and with no later source's."""
    node.write_bytes(docker_config_of({"h.io": "node"}))
    sources: list[Source] = [PullSecrets(Secrets(is_away=True), ["*"]), NodeConfig(node)]
    asked = Asking(Sources(sources, hosts_of=lambda registry: [registry]), namespaces=["*"])
    assert asked.ask(volume_of(IMAGE), lambda config: len(config.by_place))[0] == 0
    registry = Registry("node")
    for kind in (errors.Unauthenticated, errors.AccessDenied, errors.ImageNotFound):
        registry.refusal = kind("h.io refuses")
        with pytest.raises(ApiUnavailable, match="the kubelet tries again by itself"):
            asked.ask(volume_of(IMAGE), registry.ask)
    assert registry.shown == [None, None, None]


def test_a_source_that_says_the_same_is_not_tried_twice(plugins: Plugins, node: Path) -> None:
    node.write_bytes(docker_config_of({"h.io": "node"}))
    plugins.providers[0]["matchImages"] = ["other.io"]
    plugins.write({})
    registry = Registry("another")
    with pytest.raises(errors.Unauthenticated, match="came from the node's docker config"):
        asking(plugins, node).ask(volume_of(IMAGE), registry.ask)
    assert registry.shown == ["node"]


def test_another_error_is_no_reason_to_ask_again(plugins: Plugins, node: Path) -> None:
    registry = Registry("none")
    registry.refusal = errors.RegistryUnavailable("h.io is away")
    with pytest.raises(errors.RegistryUnavailable, match=r"^h\.io is away$"):
        asking(plugins, node).ask(volume_of(IMAGE), registry.ask)
    assert registry.shown == ["p1"]
