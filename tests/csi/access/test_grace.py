"""A registry that cannot be asked: who goes on, for how long, and with which image."""

import pytest

from clipfs import errors
from clipfs.image.model import Image
from csi.volume import PullPolicy
from tests.csi.access.conftest import ALICE, BOB, GRACE_S, Node, NodeOf, Private
from tests.support.faulty_registry import relayed
from tests.support.web import Asked, Reply, run_web

POLICIES: list[PullPolicy] = ["IfNotPresent", "Always", "Never"]
LATER_S = 61


def proved(private: Private, node: Node) -> tuple[str, Image]:
    """An image that alice may read, proved and on the node."""
    name = private.push("team/app:1")
    image = node.admit(name)
    node.has(image)
    return name, image


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_proved_here_goes_on_with_the_same_credentials(
    policy: PullPolicy, private: Private, node: Node
) -> None:
    name, image = proved(private, node)
    private.stop()
    node.time.passed_s += GRACE_S - 1
    node.restart()
    assert node.admit(name, policy=policy) == image
    by_digest = f"{name.rpartition(':')[0]}@{image.digest}"
    assert node.admit(by_digest, policy=policy).digest == image.digest


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "login", ["", f"bob:{BOB}", "alice:changed"], ids=["nobody", "never-asked", "new-password"]
)
def test_other_credentials_do_not(
    login: str, policy: PullPolicy, private: Private, node: Node
) -> None:
    name, _ = proved(private, node)
    private.stop()
    with pytest.raises(errors.RegistryUnavailable, match="team/app:1: no answer") as caught:
        node.admit(name, login, policy=policy)
    assert "sha256" not in str(caught.value)


def test_after_the_grace_nobody_goes_on(private: Private, node: Node) -> None:
    name, _ = proved(private, node)
    private.stop()
    node.time.passed_s += GRACE_S
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name)


def test_without_a_grace_a_proof_is_good_for_a_minute(private: Private, node: Node) -> None:
    name, image = proved(private, node)
    private.stop()
    node.restart(grace_s=0)
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name)
    private.start()
    assert node.admit(name) == image
    private.stop()
    node.time.passed_s += 59
    assert node.admit(name) == image
    node.time.passed_s += 1
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name)


def test_a_clock_that_went_back_proves_nothing(private: Private, node: Node) -> None:
    name, _ = proved(private, node)
    private.stop()
    node.time.passed_s -= 1
    node.restart()
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name)


def test_a_proof_is_renewed_while_the_registry_answers(private: Private, node: Node) -> None:
    name, image = proved(private, node)
    node.time.passed_s += GRACE_S - 1
    node.admit(name)
    private.stop()
    node.time.passed_s += GRACE_S - 1
    assert node.admit(name) == image


def test_a_proof_of_what_a_tag_was_is_none_of_what_it_is(private: Private, node: Node) -> None:
    """Bob has proved the old image only; the tag is the new one here, since alice asked."""
    name, _ = proved(private, node)
    node.admit(name, f"bob:{BOB}")
    private.push("team/app:1", 1)
    new = node.admit(name, policy="Always")
    node.has(new)
    private.stop()
    assert node.admit(name, policy="Always") == new
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name, f"bob:{BOB}", policy="Always")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_registry_that_is_too_busy_is_as_one_that_is_away(
    policy: PullPolicy, status: int, private: Private, node_of: NodeOf
) -> None:
    busy: list[int] = []

    def front(asked: Asked) -> Reply:
        return Reply(busy[0]) if busy else relayed(private.address, asked)

    private.push("team/app:1")
    with run_web(front) as web:
        node = node_of(web.address)
        name = f"{web.address}/team/app:1"
        image = node.admit(name)
        node.has(image)
        busy.append(status)
        node.time.passed_s += LATER_S
        before = len(web.asked)
        assert node.admit(name, f"alice:{ALICE}", policy=policy) == image
        assert len(web.asked) > before
        with pytest.raises(errors.RegistryUnavailable, match=str(status)):
            node.admit(name, f"bob:{BOB}", policy=policy)
