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
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.csi.conftest import Start
from tests.support.content import ContentServer, run_content_server
from tests.support.driver import Driver, failure, mounts_below, nothing_left
from tests.support.machine import needs_fuse
from tests.support.neighbours import (
    NEIGHBOUR,
    NOBODY,
    PASSWORDS,
    SECRET,
    STRANGER,
    Registries,
    Secret,
    Try,
    make_secret,
    run_registries,
)
from tests.support.node import Node
from tests.support.two_nodes import options_of_server, stored

pytestmark = needs_fuse

PLACES = ("mounted", "disk", "cache", "in flight")
FRONTS = ("fuse", "erofs")
POLICIES = ("IfNotPresent", "Always", "Never")


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Secret:
    return make_secret(tmp_path_factory.mktemp("secret"))


@pytest.fixture
def registries(secret: Secret, tmp_path: Path) -> Iterator[Registries]:
    with run_registries(secret, tmp_path) as running:
        yield running


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
    # what the kernel serves alone is one mount, whoever names the image
    front = "erofs" if place == "mounted" else "fuse"
    mine = Try(who=NEIGHBOUR, image=registries.image(), front=front)
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
