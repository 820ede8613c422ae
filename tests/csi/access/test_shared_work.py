"""Work that pods share was begun with one pod's credentials: what if those are no good any more?

A real driver, a real registry with two users, and a proxy that takes a right away in the middle.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.csi.access.conftest import ALICE, BOB
from tests.csi.conftest import Start
from tests.support import images
from tests.support.driver import Driver, failure, nothing_left
from tests.support.guard import Guard
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer, run_registry, write_htpasswd
from tests.support.wait import wait_for
from tests.support.web import WebServer, run_web

pytestmark = needs_fuse

SECRETS = {"alice": ALICE, "bob": BOB}
SHORT_S = 6
"""A call's time: it is answered after a second."""


@dataclass(frozen=True, slots=True)
class Scene:
    """An image behind the guard, as `name`; and as `elsewhere`, which anyone may read."""

    guard: Guard
    web: WebServer
    name: str
    elsewhere: str

    def publish(self, driver: Driver, user: str, within_s: float = 120) -> Path:
        secret = {"username": user, "password": SECRETS[user]}
        return driver.publish(user, self.name, secret, within_s=within_s)


@pytest.fixture
def scene(layout: Path, image: str, registry: RegistryServer, tmp_path: Path) -> Iterator[Scene]:
    htpasswd = write_htpasswd(tmp_path / "htpasswd", SECRETS)
    with run_registry(tmp_path / "private", htpasswd=htpasswd) as private:
        images.push(layout, private.address, "team/app:1", creds=f"alice:{ALICE}")
        guard = Guard(private.address)
        with run_web(guard) as web:
            try:
                yield Scene(guard, web, f"{web.address}/team/app:1", image)
            finally:
                guard.let_go()


def sent_away(scene: Scene, driver: Driver, user: str) -> None:
    """A publish that was answered in time: it is one of those who want the work."""
    code, _ = failure(lambda: scene.publish(driver, user, SHORT_S))
    assert code == "ABORTED"


FRONTS = {"index": "fuse", "proof": "erofs"}
"""What the kernel serves alone is one mount, and may be another registry's to prove."""


def both_wait(what: str, scene: Scene, start: Start) -> Driver:
    """A driver whose work alice began, and bob has joined; it is held at the registry."""
    driver = start("--plain-http", scene.web.address, "--front", FRONTS[what])
    if what == "proof":
        driver.publish("another", scene.elsewhere)
    scene.guard.hold()
    sent_away(scene, driver, "alice")
    assert scene.guard.at_gate.wait(60)
    sent_away(scene, driver, "bob")
    return driver


@pytest.mark.parametrize("what", ["index", "proof"])
def test_a_right_that_is_taken_away_in_the_middle_fails_nobody_who_has_one(
    what: str, scene: Scene, start: Start
) -> None:
    """Alice's credentials began it: a first pass, or the proof of what is mounted for others."""
    driver = both_wait(what, scene, start)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(scene.publish, driver, "bob")
        scene.guard.revoked.add("alice")
        scene.guard.let_go()
        assert (call.result() / "hello").read_text() == "world\n"
    assert scene.guard.refusals


@pytest.mark.parametrize("what", ["index", "proof"])
def test_who_came_first_may_go_and_take_his_credentials_with_him(
    what: str, scene: Scene, start: Start
) -> None:
    driver = both_wait(what, scene, start)
    driver.unpublish("alice")
    with ThreadPoolExecutor() as pool:
        call = pool.submit(scene.publish, driver, "bob")
        scene.guard.revoked.add("alice")
        scene.guard.let_go()
        assert (call.result() / "hello").read_text() == "world\n"


def test_who_has_lost_the_right_himself_is_told_so_by_his_own_credentials(
    scene: Scene, start: Start, tmp_path: Path
) -> None:
    """Bob's good ones do not open alice's volume at her next call."""
    driver = start("--plain-http", scene.web.address)
    driver.publish("another", scene.elsewhere)
    scene.guard.hold()
    sent_away(scene, driver, "alice")
    assert scene.guard.at_gate.wait(60)
    scene.guard.revoked.add("alice")
    scene.guard.let_go()
    wait_for(lambda: scene.guard.refusals)
    code, said = failure(lambda: scene.publish(driver, "alice"))
    assert (code, scene.name in said) == ("UNAUTHENTICATED", True)
    assert (scene.publish(driver, "bob") / "hello").read_text() == "world\n"
    driver.unpublish("another")
    driver.unpublish("bob")
    nothing_left(driver, tmp_path / "root", "another", "alice", "bob")
