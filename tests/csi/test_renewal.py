"""A volume that is there and is published again: what came counts, and nothing harms the volume."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.layer.layout import Layout
from csi.credentials.asking import Asking
from csi.credentials.handing import SOCKET, Handing
from csi.credentials.lending import Lending
from csi.credentials.pull_secrets import PullSecrets
from csi.credentials.sources import GivenSecret, Source, Sources
from csi.renewal import CHOSEN_S, Renewal
from csi.status.reporter import Lack, Reporter, Subject
from csi.volume import Volume
from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.driver import Driver, servers
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.plugins import Plugins
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.volumes import Secrets, docker_config_of, volume_of
from tests.support.wait import wait_for

OLD, NEW, WRONG = "old-hush-word", "new-hush-word", "wrong-hush-word"
DIGEST = Digest("sha256:" + "a" * 64)


def secret(password: str) -> dict[str, str]:
    return {"username": "user", "password": password}


@dataclass(frozen=True, slots=True)
class Lazy:
    """A registry that wants a password, and drivers on a node that has the image's index alone."""

    registry: ScriptedRegistry
    starts: Start

    @property
    def image(self) -> str:
        return f"{self.registry.address}/own:1"

    def wants(self, password: str) -> None:
        self.registry.wants = f"user:{password}"


@pytest.fixture
def lazy(start: Start, scripted: ScriptedRegistry, tmp_path: Path) -> Iterator[Lazy]:
    (tmp_path / "key").write_text("the cluster's key\n")
    (tmp_path / "a.json").write_bytes(docker_config_of({scripted.address: OLD}))
    with run_content_server(tmp_path / "cache") as cache:
        shared = ["--content-cache", cache.url,
                  "--content-cache-token-file", str(tmp_path / "cache/token"),
                  "--index-key-file", str(tmp_path / "key")]  # fmt: skip # as typed by hand
        made = Lazy(scripted, lambda *options: start(*shared, *options))
        made.wants(OLD)
        own = ["--plain-http", scripted.address, "--registry-config", str(tmp_path / "a.json")]
        Node(tmp_path / "A", [*shared, *own]).json("index", made.image)
        for page in cache.objects.glob("sha256_*/*"):
            page.unlink()
        yield made


@needs_fuse
@pytest.mark.parametrize("restarted", [False, True], ids=["same-driver", "next-driver"])
def test_a_secret_that_is_rotated_reaches_the_volume_with_its_next_publish(
    restarted: bool, lazy: Lazy, layout_data: bytes, tmp_path: Path
) -> None:
    driver = lazy.starts()
    target = driver.publish("pod", lazy.image, secret(OLD))
    before = servers(tmp_path / "root")
    if restarted:
        driver.process.terminate()
        driver.process.wait(20)
        driver = lazy.starts()
    lazy.wants(NEW)
    driver.publish("pod", lazy.image, secret(NEW))
    reads = len(lazy.registry.layer_reads())
    assert (target / "data").read_bytes() == layout_data
    assert len(lazy.registry.layer_reads()) > reads, "the bytes were at the registry alone"
    assert servers(tmp_path / "root") == before


@needs_fuse
def test_a_token_that_the_kubelet_brings_anew_is_what_a_provider_gets_from_then_on(
    lazy: Lazy, layout_data: bytes, tmp_path: Path
) -> None:
    """The plugin trades a token for itself, and the first one has expired when it is needed."""
    plugins = Plugins(tmp_path / "provider")
    wants = {"serviceAccountTokenAudience": "reg", "requireServiceAccount": True,
             "cacheType": "Token"}  # fmt: skip  # one document
    host = lazy.registry.address
    say = f'answer["auth"] = auth(**{{{host!r}: asked["serviceAccountToken"]}})'
    plugins.add("trader", say, match=[host], tokenAttributes=wants)
    driver = lazy.starts(
        "--image-credential-provider-config", str(plugins.file),
        "--image-credential-provider-bin-dir", str(plugins.folder), "--token-requests",
    )  # fmt: skip  # as typed by hand
    target = driver.publish("pod", lazy.image, attributes=tokens(OLD))
    lazy.wants(NEW)
    driver.publish("pod", lazy.image, attributes=tokens(NEW))
    assert (target / "data").read_bytes() == layout_data
    assert plugins.calls("trader")[-1]["asked"]["serviceAccountToken"] == NEW


def tokens(token: str) -> dict[str, str]:
    """What the kubelet says of a service account."""
    by_audience = {"reg": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}}
    return {
        "csi.storage.k8s.io/serviceAccount.name": "builder",
        "csi.storage.k8s.io/serviceAccount.tokens": json.dumps(by_audience),
    }


@needs_fuse
def test_without_a_publish_a_secret_that_is_rotated_fails_reads(lazy: Lazy) -> None:
    target = lazy.starts().publish("pod", lazy.image, secret(OLD))
    lazy.wants(NEW)
    with pytest.raises(PermissionError):
        (target / "data").read_bytes()


def logged(driver: Driver, event: str) -> int:
    """How often."""
    return [line["event"] for line in driver.lines()].count(event)


@needs_fuse
def test_a_volume_whose_access_is_refused_by_now_stays_and_it_is_told(
    driver: Driver, scripted: ScriptedRegistry, layout_data: bytes
) -> None:
    scripted.wants = f"user:{OLD}"
    image = f"{scripted.address}/own:1"
    target = driver.publish("pod", image, secret(OLD))
    asked = len(scripted.requests)
    driver.publish("pod", image, secret(WRONG))
    told = "access is refused by now, the volume stays"
    wait_for(lambda: logged(driver, told) == 1)
    assert len(scripted.requests) > asked
    driver.publish("pod", image, {"token": WRONG})
    wait_for(lambda: logged(driver, told) == 2)
    assert (target / "data").read_bytes() == layout_data
    driver.publish("pod", image, secret(OLD))
    wait_for(lambda: logged(driver, "access is given again"))
    assert (target / "data").read_bytes() == layout_data
    assert WRONG not in driver.log.read_text()


@needs_fuse
def test_a_volume_is_published_again_while_its_registry_is_away(
    driver: Driver, scripted: ScriptedRegistry, layout_data: bytes
) -> None:
    scripted.wants = f"user:{OLD}"
    image = f"{scripted.address}/own:1"
    target = driver.publish("pod", image, secret(OLD))
    scripted.refuse["manifests"] = 503
    scripted.wants = None
    driver.publish("pod", image, secret(NEW))
    wait_for(lambda: logged(driver, "access cannot be proved again now, the volume stays"))
    assert (target / "data").read_bytes() == layout_data


@dataclass
class Told(Reporter):
    words: list[str] = field(default_factory=list)

    def degraded(self, subject: Subject, reason: str, *, cause: Lack) -> None:
        self.words.append(f"degraded: {reason}")

    def recovered(self, subject: Subject, *, cause: Lack) -> None:
        self.words.append("recovered")


@dataclass(slots=True)
class Registry:
    """Opens to one password, once `gate` is set; `shown` are those that it saw, `asked` is set
    when it is asked first."""

    password: str = OLD
    is_away: bool = False
    asked: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    shown: list[str] = field(default_factory=list)

    def prove(self, volume: Volume, digest: Digest, config: RegistryConfig) -> None:
        self.asked.set()
        assert self.gate.wait(60)
        found = config.for_repository("h.io", "app")
        self.shown.append(found.password if found else "")
        if self.is_away:
            raise errors.RegistryUnavailable("h.io: no answer")
        if self.shown[-1] != self.password:
            raise errors.AccessDenied("h.io says no")


class Place:
    """Volumes of a node, without a driver; time is made."""

    def __init__(self, home: Path) -> None:
        layout = Layout(home)
        self.secrets = Secrets()
        order: list[Source] = [GivenSecret(), PullSecrets(self.secrets, ["*"])]
        sources = Sources(order, hosts_of=lambda registry: [registry])
        self.registry, self.told, self.now = Registry(), Told(), 1000.0
        self.registry.gate.set()
        self.renewal = Renewal(
            self.registry.prove,
            Asking(sources, namespaces=["*"]),
            Handing(layout.run / SOCKET, Lending(sources)),
            self.told,
            clock=lambda: self.now,
        )

    def again(self, password: str = "", **tokens: str) -> None:
        """A publish of a volume with a secret of its own, or else with its pod's."""
        given = secret(password) if password else {}
        self.renewal.again(DIGEST, volume_of("h.io/app:1", secrets=given, tokens=tokens))

    def proved(self, password: str = "", **tokens: str) -> int:
        """The same, once its proof is done: how many there were."""
        before = len(self.registry.shown)
        self.again(password, **tokens)
        wait_for(is_quiet)
        return len(self.registry.shown) - before


def is_quiet() -> bool:
    """Whether nothing is asked, or is to be."""
    return not [one for one in threading.enumerate() if one.name == "renewal"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.registry.gate.set()
    made.renewal.end()


def test_nobody_waits_for_the_proof_and_what_comes_meanwhile_is_one(place: Place) -> None:
    place.registry.gate.clear()
    for _ in range(5):
        place.again(OLD)
    assert place.registry.shown == []
    place.registry.gate.set()
    wait_for(is_quiet)
    assert len(place.registry.shown) in (1, 2), "one under way, and one for all that came later"


def test_what_comes_while_a_proof_is_under_way_is_proved_next(place: Place) -> None:
    place.registry.gate.clear()
    place.again(OLD)
    assert place.registry.asked.wait(60)
    place.again(NEW)
    place.registry.gate.set()
    wait_for(is_quiet)
    assert place.registry.shown == [OLD, NEW]


def test_a_refusal_is_told_once_and_its_end_too(place: Place) -> None:
    assert place.proved(OLD) == 1
    assert place.told.words == []
    place.registry.password = NEW
    place.proved(OLD)
    place.proved(OLD)
    (word,) = place.told.words
    assert word.startswith(
        "degraded: access is refused by now, reads of what this node lacks may fail: h.io says no"
    )
    assert "nodePublishSecretRef" in word, "the way out"
    place.registry.is_away = True
    place.proved(NEW)
    assert len(place.told.words) == 1, "no answer says nothing"
    place.registry.is_away = False
    place.proved(NEW)
    assert place.told.words[1:] == ["recovered"]


def test_of_a_volume_that_is_gone_nothing_is_told(place: Place) -> None:
    place.registry.gate.clear()
    place.again(WRONG)
    place.renewal.gone(volume_of("h.io/app:1").target)
    place.registry.gate.set()
    wait_for(is_quiet)
    assert place.told.words == []


def test_the_cluster_is_asked_for_a_pull_secret_now_and_then_and_when_it_is_refused(
    place: Place,
) -> None:
    place.secrets.by_pod["team-a/web"] = [docker_config_of({"h.io": OLD})]
    for _ in range(3):
        assert place.proved() == 1
    assert len(place.secrets.asked) == 1
    place.now += CHOSEN_S
    place.proved()
    assert len(place.secrets.asked) == 2
    place.secrets.by_pod["team-a/web"] = [docker_config_of({"h.io": NEW})]
    place.registry.password = NEW
    place.proved()
    assert (len(place.secrets.asked), place.registry.shown[-2:]) == (3, [OLD, NEW])
    place.proved(reg="another token")
    assert len(place.secrets.asked) == 4, "what the kubelet brings anew is used at once"
    assert place.told.words == []


def test_a_driver_ends_while_a_registry_does_not_answer(place: Place) -> None:
    place.registry.gate.clear()
    place.again(OLD)
    place.renewal.end()
    assert place.registry.shown == []
