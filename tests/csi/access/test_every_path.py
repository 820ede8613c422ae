"""One private image by every path: who has no right to it gets no byte, no file name, no digest.

A real driver, two real registries with a user each, two namespaces' credentials. The neighbour's
registry has the image; the other one is behind a proxy that makes it hostile: it serves manifests
that name the neighbour's layer, says 200 to every HEAD, and of the layer itself has nothing.

| where the image is | its layer |
|---|---|
| mounted   | on the disk, in a mount of the neighbour's pod |
| disk      | on the disk, whole; nothing is mounted |
| cache     | in the content cache alone: this node, whose disk is empty, shares the index key |
| in flight | half here: the neighbour's publish waits for it |
"""

import base64
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from blake3 import blake3

from tests.csi.conftest import Start
from tests.support import images
from tests.support.content import ContentServer, run_content_server
from tests.support.driver import Driver, failure, mounts_below, nothing_left
from tests.support.faulty_registry import relayed
from tests.support.guard import Guard
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import run_registry, write_htpasswd
from tests.support.two_nodes import options_of_server, stored
from tests.support.web import Asked, Reply, WebServer, run_web

pytestmark = needs_fuse

SECRET = "the-neighbours-secret"
CHUNK_BYTES = 128 << 10
CALL_S = 40
"""Who joins work that does not go on is answered after that: nobody here is meant to."""

NEIGHBOUR, STRANGER, NOBODY = ("team-a", "alice"), ("team-b", "mallory"), ("team-b", "")
PASSWORDS = {"alice": "hush-alice", "mallory": "hush-mallory"}
PLACES = ("mounted", "disk", "cache", "in flight")
FRONTS = ("fuse", "erofs")
POLICIES = ("IfNotPresent", "Always", "Never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """The neighbour's image; `contents` are what is in its layer: a name, and digests of chunks."""

    layouts: Path
    layer: str
    digests: dict[str, str]
    contents: tuple[str, ...]

    def all_of_it(self) -> tuple[str, ...]:
        """What nobody may read who knows but the image's name."""
        return (*self.contents, self.layer.partition(":")[2], self.digests["same"])


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Secret:
    """`same` is the neighbour's image, `mixed` another one that names its layer, too."""
    home = tmp_path_factory.mktemp("secret")
    (home / "tree" / SECRET).mkdir(parents=True)
    (home / "tree" / SECRET / "key").write_bytes(os.urandom(300_000))
    (home / "own").mkdir()
    (home / "own/file").write_text("mine\n")
    layer = images.layer(home / "tree", home / "tree.tar")
    images.write_layout(home / "same", [layer])
    images.write_layout(home / "mixed", [images.layer(home / "own", home / "own.tar"), layer])
    payload = layer.tar.read_bytes()
    chunks = [payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES)]
    digests = {
        name: json.loads((home / name / "index.json").read_text())["manifests"][0]["digest"]
        for name in ("same", "mixed")
    }
    manifest = home / "same/blobs" / digests["same"].replace(":", "/")
    return Secret(
        layouts=home,
        layer=json.loads(manifest.read_text())["layers"][0]["digest"],
        digests=digests,
        contents=(SECRET, *(blake3(chunk).hexdigest() for chunk in chunks)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """`guard` is before the neighbour's registry, at `neighbour`."""

    secret: Secret
    guard: Guard
    neighbour: WebServer
    hostile: WebServer

    def options(self) -> list[str]:
        return [word for web in (self.neighbour, self.hostile)
                for word in ("--plain-http", web.address)]  # fmt: skip # as typed by hand

    def image(self) -> str:
        return f"{self.neighbour.address}/team/app:1"

    def theirs(self, name: str) -> str:
        return f"{self.hostile.address}/{name}:1"

    def layer_reads(self) -> int:
        """How often the hostile one was asked for the layer."""
        return sum(one.method == "GET" and self.secret.layer in one.path
                   for one in self.hostile.asked)  # fmt: skip


@pytest.fixture
def registries(secret: Secret, tmp_path: Path) -> Iterator[Registries]:
    with ExitStack() as stack:

        def run(user: str) -> str:
            users = write_htpasswd(tmp_path / user, {user: PASSWORDS[user]})
            started = run_registry(tmp_path / f"of-{user}", htpasswd=users)
            return stack.enter_context(started).address

        addresses = {user: run(user) for user in PASSWORDS}
        for user, name, tag in (("alice", "same", "team/app:1"), ("mallory", "same", "same:1"),
                                ("mallory", "mixed", "mixed:1")):  # fmt: skip # a table
            login = f"{user}:{PASSWORDS[user]}"
            images.push(secret.layouts / name, addresses[user], tag, creds=login)

        def lies(asked: Asked) -> Reply:
            name, _, version = asked.path.rpartition("/")
            if asked.method == "HEAD":
                digest = version if ":" in version else secret.digests[name.split("/")[2]]
                return Reply(headers={"Docker-Content-Digest": digest})
            return (
                Reply(404) if secret.layer in asked.path else relayed(addresses["mallory"], asked)
            )

        guard = Guard(addresses["alice"])
        neighbour, hostile = (stack.enter_context(run_web(one)) for one in (guard, lies))
        try:
            yield Registries(secret=secret, guard=guard, neighbour=neighbour, hostile=hostile)
        finally:
            guard.let_go()


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A publish by a pod of a namespace, with a user's password if it has any."""

    who: tuple[str, str]
    image: str
    front: str = "fuse"
    policy: str = "IfNotPresent"

    @property
    def pod(self) -> str:
        said = f"{self.who}{self.image}{self.front}{self.policy}"
        return f"{self.who[0]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def publish(self, driver: Driver, within_s: float = CALL_S) -> Path:
        namespace, user = self.who
        attributes = {"front": self.front, "pullPolicy": self.policy,
                      "csi.storage.k8s.io/pod.namespace": namespace}  # fmt: skip # one to a line
        pair = {"username": user, "password": PASSWORDS[user]} if user else None
        return driver.publish(self.pod, self.image, pair, attributes=attributes, within_s=within_s)


def by_tag_and_digest(name: str, digest: str) -> list[str]:
    return [name, f"{name.rpartition(':')[0]}@{digest}"]


def gets_nothing(one: Try, driver: Driver, codes: set[str], words: tuple[str, ...]) -> None:
    """It fails with one of codes; answer, log of its pod and target tell none of words."""
    code, said = failure(lambda: one.publish(driver))
    assert code in codes, (one, said)
    named = one.image.rpartition("@")[2].partition(":")[2] if "@" in one.image else "@"
    lines = [line for line in driver.lines() if line.get("pod", "").endswith(f"/{one.pod}")]
    assert lines, "the log tells of it"
    for text in (said, *map(json.dumps, lines)):
        assert [word for word in words if word in text.replace(named, "")] == [], (one, text)
    target = driver.target(one.pod)
    assert not os.path.lexists(target)
    assert list(target.parent.iterdir()) == []
    assert not [place for place in mounts_below(driver.kubelet_root) if one.pod in place]


@contextmanager
def brought(
    place: str, registries: Registries, start: Start, home: Path, server: ContentServer
) -> Iterator[Driver]:
    """A driver on a node that has the neighbour's image at that place, for the block."""
    options = registries.options()
    mine = Try(who=NEIGHBOUR, image=registries.image())
    if place == "cache":
        options += options_of_server(server, home)
        auth = base64.b64encode(f"alice:{PASSWORDS['alice']}".encode()).decode()
        config = {"auths": {registries.neighbour.address: {"auth": auth}}}
        (home / "config.json").write_text(json.dumps(config))
        first = Node(home / "A", [*options, "--registry-config", str(home / "config.json")])
        first.json("index", registries.image())
        stored(first)
        yield start(*options)
        return
    driver = start(*options)
    if place == "in flight":
        registries.guard.hold()
        with ThreadPoolExecutor() as pool:
            call = pool.submit(mine.publish, driver, within_s=600)
            try:
                assert registries.guard.at_gate.wait(60)
                yield driver
                assert not call.done()
            finally:
                registries.guard.let_go()
            call.result()
        return
    mine.publish(driver)
    if place == "disk":
        driver.unpublish(mine.pod)
    yield driver


@pytest.fixture
def content_server(tmp_path: Path) -> Iterator[ContentServer]:
    with run_content_server(tmp_path / "cc") as server:
        yield server


def neighbour_reads_on(place: str, registries: Registries, driver: Driver) -> None:
    """All that was tried on him was for nothing, and he himself has lost nothing by it.

    Never is of what is whole on the node.
    """
    for front, policy in itertools.product(FRONTS, POLICIES[: 2 if place == "cache" else 3]):
        mine = Try(who=NEIGHBOUR, image=registries.image(), front=front, policy=policy)
        assert (mine.publish(driver) / SECRET / "key").stat().st_size == 300_000
        driver.unpublish(mine.pod)


@pytest.mark.parametrize("place", PLACES)
def test_who_has_no_right_at_its_registry_gets_nothing(
    place: str,
    registries: Registries,
    secret: Secret,
    start: Start,
    tmp_path: Path,
    content_server: ContentServer,
) -> None:
    with brought(place, registries, start, tmp_path, content_server) as driver:
        tried = [
            Try(who=who, image=image, front=front, policy=policy)
            for who in (STRANGER, NOBODY)
            for image in by_tag_and_digest(registries.image(), secret.digests["same"])
            for front, policy in itertools.product(FRONTS, POLICIES)
        ]
        for one in tried:
            gets_nothing(one, driver, {"UNAUTHENTICATED"}, secret.all_of_it())
    neighbour_reads_on(place, registries, driver)


@pytest.mark.parametrize("place", PLACES)
def test_a_hostile_registry_that_names_the_layer_opens_nothing_of_it(
    place: str,
    registries: Registries,
    secret: Secret,
    start: Start,
    tmp_path: Path,
    content_server: ContentServer,
) -> None:
    """With the stranger's own credentials, which are good there, and every HEAD a 200."""
    with brought(place, registries, start, tmp_path, content_server) as driver:
        for name, front in itertools.product(("same", "mixed"), FRONTS):
            words = (*secret.contents, *([secret.digests["same"]] if name == "mixed" else []))
            for image in by_tag_and_digest(registries.theirs(name), secret.digests[name]):
                before = registries.layer_reads()
                one = Try(who=STRANGER, image=image, front=front)
                gets_nothing(one, driver, {"NOT_FOUND"}, words)
                assert registries.layer_reads() > before, "it was asked to show the layer"
        never = Try(who=STRANGER, image=registries.theirs("same"), policy="Never")
        gets_nothing(never, driver, {"NOT_FOUND"}, secret.contents)
    host = hashlib.sha256(registries.hostile.address.encode()).hexdigest()
    record = f"{secret.layer.replace(':', '_')}.v1.origin.{host}"
    assert not (tmp_path / "root/index" / record).exists()
    assert content_server.ask("GET", record).status == 404
    neighbour_reads_on(place, registries, driver)


def test_what_was_tried_leaves_nothing_behind(
    registries: Registries, start: Start, tmp_path: Path, content_server: ContentServer
) -> None:
    with brought("disk", registries, start, tmp_path, content_server) as driver:
        tried = [
            Try(who=STRANGER, image=image)
            for image in (registries.image(), registries.theirs("mixed"))
        ]
        for one in tried:
            with pytest.raises(grpc.RpcError):
                one.publish(driver)
        nothing_left(driver, tmp_path / "root", *(one.pod for one in tried))
