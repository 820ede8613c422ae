"""Cached is not authorised: one private image, several tenants, every way to name it."""

import base64
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.model import Image
from csi.volume import PullPolicy
from tests.csi.access.conftest import ALICE, BOB, GRACE_S, Node, NodeOf, Private
from tests.support.faulty_registry import relayed
from tests.support.registry import make_certificate, run_registry
from tests.support.tokens import run_token_server
from tests.support.web import Asked, Reply, run_web

POLICIES: list[PullPolicy] = ["IfNotPresent", "Always", "Never"]
STRANGERS = ["", "mallory:hush-bob", "alice:wrong"]
LATER_S = 61


def by_tag(name: str, _: Image) -> str:
    return name


def by_digest(name: str, image: Image) -> str:
    return f"{name.rpartition(':')[0]}@{image.digest}"


@pytest.mark.parametrize("login", STRANGERS, ids=["nobody", "another-user", "wrong-password"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("named", [by_tag, by_digest])
def test_who_may_not_read_an_image_gets_nothing_of_what_others_have_brought(
    named: Callable[[str, Image], str],
    policy: PullPolicy,
    login: str,
    private: Private,
    node: Node,
) -> None:
    name = private.push("team/app:1")
    image = node.admit(name)
    node.has(image)
    for known in (None, image.digest):
        with pytest.raises(errors.Unauthenticated, match="wants credentials") as caught:
            node.admit(named(name, image), login, policy=policy, pinned=known)
        said = str(caught.value).replace(named(name, image), "")
        assert "sha256" not in said
    assert node.admit(named(name, image), policy=policy).digest == image.digest
    assert node.admit(named(name, image), f"bob:{BOB}", policy=policy).digest == image.digest


@pytest.mark.parametrize("policy", POLICIES)
def test_a_registry_that_knows_a_tenant_and_refuses_him_is_believed(
    policy: PullPolicy, private: Private, node_of: NodeOf
) -> None:
    bob = "Basic " + base64.b64encode(f"bob:{BOB}".encode()).decode()

    def guard(asked: Asked) -> Reply:
        if asked.headers.get("authorization") == bob:
            return Reply(403)
        return relayed(private.address, asked)

    private.push("team/app:1")
    with run_web(guard) as web:
        node = node_of(web.address)
        name = f"{web.address}/team/app:1"
        image = node.admit(name)
        node.has(image)
        with pytest.raises(errors.AccessDenied, match="team/app:1: the registry refuses") as caught:
            node.admit(name, f"bob:{BOB}", policy=policy)
    assert "sha256" not in str(caught.value)


@pytest.mark.parametrize("policy", ["IfNotPresent", "Never"])
def test_who_answers_everything_to_a_stranger_tells_him_no_digest(
    policy: PullPolicy, private: Private, node_of: NodeOf
) -> None:
    shows_page = threading.Event()

    def guard(asked: Asked) -> Reply:
        if not shows_page.is_set():
            return relayed(private.address, asked)
        page = b"" if asked.method == "HEAD" else b"<html>who are you?"
        return Reply(200, {"Content-Type": "text/html"}, page)

    private.push("team/app:1")
    with run_web(guard) as web:
        node = node_of(web.address)
        name = f"{web.address}/team/app"
        node.has(node.admit(f"{name}:1"))
        shows_page.set()
        said = []
        for tag in ("1", "unused"):
            with pytest.raises(errors.ClipError) as caught:
                node.admit(f"{name}:{tag}", "", policy=policy)
            said.append(str(caught.value).replace(f"{name}:{tag}", "NAME"))
    assert said[0] == said[1]
    assert "sha256" not in said[0]


def test_tokens_prove_access_as_passwords_do(
    tmp_path: Path, layouts: tuple[Path, Path], node_of: NodeOf
) -> None:
    certificate = make_certificate(tmp_path)
    with (
        run_token_server(certificate, users={"alice": ALICE}) as tokens,
        run_registry(tmp_path / "guarded", token=tokens.auth) as server,
    ):
        private = Private(tmp_path / "guarded", layouts, address=server.address)
        name = private.push("team/app:1")
        node = node_of(server.address)
        image = node.admit(name)
        node.has(image)
        node.time.passed_s += LATER_S
        assert node.admit(name) == image
        with pytest.raises(errors.Unauthenticated):
            node.admit(name, "")
        with pytest.raises(errors.Unauthenticated, match="token server"):
            node.admit(name, "alice:wrong")


def test_ten_publishes_of_a_minute_are_one_head(private: Private, node: Node) -> None:
    name = private.push("team/app:1")
    image = node.admit(name)
    node.has(image)
    node.time.passed_s += LATER_S
    before = len(private.answered())
    for _ in range(10):
        node.time.passed_s += 5
        assert node.admit(name) == image
    assert private.answered()[before:] == [f"HEAD {image.digest}"]
    node.time.passed_s += LATER_S
    node.admit(name)
    assert private.answered()[before:] == [f"HEAD {image.digest}"] * 2


def test_what_one_tenant_proved_is_no_proof_for_another(private: Private, node: Node) -> None:
    name = private.push("team/app:1")
    image = node.admit(name)
    node.has(image)
    before = len(private.answered())
    node.admit(name, f"bob:{BOB}")
    assert private.answered()[before:] == [f"HEAD {image.digest}"]


def test_a_repository_must_deliver_itself_what_another_has_delivered(
    private: Private, node: Node
) -> None:
    """Knowing a digest is not owning it: a hostile registry names a neighbour's image."""
    name = private.push("team/app:1")
    image = node.admit(name)
    node.has(image)
    headers: dict[str, str] = {"Docker-Content-Digest": image.digest}

    def says_yes(asked: Asked) -> Reply:
        return Reply(headers=headers) if asked.method == "HEAD" else Reply(404)

    with run_web(says_yes) as hostile:
        for version in (f"@{image.digest}", ":1"):
            with pytest.raises(errors.ImageNotFound):
                node.admit(f"{hostile.address}/app{version}", "")
    assert "GET" in {one.method for one in hostile.asked}


def test_who_lost_the_right_does_not_get_it_back_when_the_registry_is_away(
    private: Private, node: Node
) -> None:
    name = private.push("team/app:1")
    node.has(node.admit(name))
    private.stop()
    private.users["alice"] = "another"
    private.start()
    node.time.passed_s += LATER_S
    with pytest.raises(errors.Unauthenticated):
        node.admit(name)
    private.stop()
    for _ in range(2):
        with pytest.raises(errors.RegistryUnavailable):
            node.admit(name)
        node.restart()


def test_no_credential_is_on_the_disk_and_the_mark_of_one_needs_the_nodes_key(
    private: Private, node: Node
) -> None:
    name = private.push("team/app:1")
    node.admit(name)
    written = [path for path in node.layout.root.rglob("*") if path.is_file()]
    assert {path.parent.name for path in written} >= {"proofs", "tags", "images"}
    for secret in (ALICE, base64.b64encode(f"alice:{ALICE}".encode()).decode().rstrip("=")):
        assert not [path for path in written if secret.encode() in path.read_bytes()]
    (node.layout.index / "key").unlink()
    node.restart()
    private.stop()
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(name)


def test_a_proof_that_was_given_another_callers_name_proves_nothing(
    private: Private, node: Node
) -> None:
    name, other = private.push("team/app:1"), private.push("team/app:2", 1)
    node.has(node.admit(name))
    node.admit(other, f"bob:{BOB}")
    of_one, of_other = (node.layout.run / "access/proofs").iterdir()
    swap(of_one, of_other)
    node.restart()
    private.stop()
    for login in (f"alice:{ALICE}", f"bob:{BOB}"):
        with pytest.raises(errors.RegistryUnavailable):
            node.admit(name, login)


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


@pytest.mark.parametrize("spoil", ["removed", "half", "swapped"])
def test_records_that_are_not_as_they_were_written_prove_nothing(
    spoil: str, private: Private, node: Node
) -> None:
    one, two = private.push("team/app:1"), private.push("other/app:1", 1)
    images = [node.admit(name) for name in (one, two)]
    for image in images:
        node.has(image)
    folders = [node.layout.run / "access" / name for name in ("proofs", "tags", "images")]
    for folder in folders:
        first, second = sorted(folder.iterdir())
        if spoil == "removed":
            shutil.rmtree(folder)
        elif spoil == "half":
            for path in (first, second):
                path.write_bytes(path.read_bytes()[:-1])
        else:
            swap(first, second)
    node.restart()
    private.stop()
    with pytest.raises(errors.RegistryUnavailable):
        node.admit(one)
    private.start()
    assert [node.admit(name) for name in (one, two)] == images
    node.time.passed_s += GRACE_S - 1
    private.stop()
    assert node.admit(one) == images[0]
