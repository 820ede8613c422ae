"""What a proof is good for: one digest, one set of credentials, a minute; longer only in need.

Time is the test's own, the registry is real; a proxy before it takes rights away, or is too busy.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from clipfs import errors
from clipfs.image.model import Image
from csi.volume import PullPolicy
from tests.csi.access.conftest import ALICE, BOB, GRACE_S, Node, NodeOf, Private
from tests.support.guard import Guard, user_of
from tests.support.web import Asked, Reply, run_web

PATIENCE_S = 5
"""How long an answer is held at most: one who gets another's waits for it, and for the test."""


@dataclass(slots=True)
class Front:
    """`answer`: how each request is answered that is not relayed; `held`: whose wait for `gate`."""

    guard: Guard
    answer: Reply | None = None
    held: str = ""
    at_gate: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def __call__(self, asked: Asked) -> Reply:
        if self.held and user_of(asked) == self.held:
            self.at_gate.set()
            self.gate.wait(PATIENCE_S)
        return self.answer or self.guard(asked)


@dataclass(frozen=True, slots=True)
class Scene:
    """Two images of one repository, which alice and bob may read, and a node that has both."""

    node: Node
    front: Front
    names: tuple[str, str]
    images: tuple[Image, Image]


@pytest.fixture
def scene(private: Private, node_of: NodeOf) -> Iterator[Scene]:
    for number in (1, 2):
        private.push(f"team/app:{number}", number - 1)
    front = Front(Guard(private.address))
    with run_web(front) as web:
        node = node_of(web.address)
        names = (f"{web.address}/team/app:1", f"{web.address}/team/app:2")
        one, two = node.admit(names[0]), node.admit(names[1], f"bob:{BOB}")
        for image in (one, two):
            node.has(image)
        yield Scene(node, front, names, (one, two))


def named(scene: Scene, which: int, by: str) -> str:
    name = scene.names[which]
    return name if by == "tag" else f"{name.rpartition(':')[0]}@{scene.images[which].digest}"


@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("policy", ["IfNotPresent", "Never"])
def test_a_right_that_is_taken_away_holds_for_a_minute_and_no_longer(
    policy: PullPolicy, by: str, scene: Scene
) -> None:
    name = named(scene, 0, by)
    scene.front.guard.revoked.add("alice")
    scene.node.time.passed_s += 59
    assert scene.node.admit(name, policy=policy).digest == scene.images[0].digest
    scene.node.time.passed_s += 1
    with pytest.raises(errors.Unauthenticated):
        scene.node.admit(name, policy=policy)
    assert scene.node.admit(name, f"bob:{BOB}", policy=policy).digest == scene.images[0].digest


def test_always_asks_for_its_tag_each_time(scene: Scene) -> None:
    scene.front.guard.revoked.add("alice")
    with pytest.raises(errors.Unauthenticated):
        scene.node.admit(scene.names[0], policy="Always")


@pytest.mark.parametrize(
    ("which", "login"),
    [
        pytest.param(1, f"alice:{ALICE}", id="another digest"),
        pytest.param(0, f"bob:{BOB}", id="other credentials"),
        pytest.param(0, "alice:changed", id="another password"),
        pytest.param(0, "", id="none"),
    ],
)
@pytest.mark.parametrize("by", ["tag", "digest"])
def test_within_the_minute_it_is_a_proof_of_nothing_else(
    by: str, which: int, login: str, scene: Scene
) -> None:
    scene.front.guard.revoked.update(("alice", "bob"))
    with pytest.raises(errors.Unauthenticated):
        scene.node.admit(named(scene, which, by), login)


@pytest.mark.parametrize("away", [429, 503, 0], ids=["429", "503", "unreachable"])
@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("policy", ["IfNotPresent", "Always", "Never"])
def test_in_need_it_holds_for_the_grace_and_for_that_digest_and_those_credentials_alone(
    policy: PullPolicy, by: str, away: int, scene: Scene
) -> None:
    scene.front.answer = Reply(away) if away else Reply(raw=b"")
    scene.node.time.passed_s += GRACE_S - 1
    admit, alice, bob = scene.node.admit, f"alice:{ALICE}", f"bob:{BOB}"
    one, two = (named(scene, which, by) for which in (0, 1))
    assert admit(one, alice, policy=policy).digest == scene.images[0].digest
    assert admit(two, bob, policy=policy).digest == scene.images[1].digest
    for name, login in ((two, alice), (one, bob), (one, "alice:changed"), (one, "")):
        with pytest.raises(errors.RegistryUnavailable):
            admit(name, login, policy=policy)
    scene.node.time.passed_s += 1
    with pytest.raises(errors.RegistryUnavailable):
        admit(one, alice, policy=policy)


@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("policy", ["IfNotPresent", "Always", "Never"])
def test_volumes_that_come_at_once_are_each_asked_for_with_their_own_credentials(
    policy: PullPolicy, by: str, scene: Scene
) -> None:
    """One is answered while the other's question is under way, whichever of them is good."""
    scene.node.time.passed_s += 60
    name = named(scene, 0, by)
    scene.front.guard.revoked.add("alice")

    def admitted(login: str) -> bool:
        try:
            return scene.node.admit(name, login, policy=policy).digest == scene.images[0].digest
        except errors.Unauthenticated:
            return False

    for held, other in (("alice", "bob"), ("bob", "alice")):
        logins = {"alice": f"alice:{ALICE}", "bob": f"bob:{BOB}"}
        scene.front.held = held
        scene.front.at_gate.clear()
        scene.front.gate.clear()
        scene.node.time.passed_s += 60
        with ThreadPoolExecutor() as pool:
            first = pool.submit(admitted, logins[held])
            assert scene.front.at_gate.wait(60)
            assert admitted(logins[other]) == (other == "bob")
            scene.front.gate.set()
            assert first.result() == (held == "bob")
