"""Access as pods meet it: a driver, real mounts, a private registry that comes and goes."""

from pathlib import Path

import pytest

from tests.csi.access.conftest import ALICE, BOB, Private
from tests.csi.conftest import Start
from tests.support.driver import Driver, failure, nothing_left
from tests.support.machine import needs_fuse

pytestmark = needs_fuse

OF_ALICE = {"username": "alice", "password": ALICE}
OF_BOB = {"username": "bob", "password": BOB}
OTHERS = [{}, {"username": "alice", "password": "wrong"}]


@pytest.fixture
def driver(start: Start, private: Private) -> Driver:
    return start("--plain-http", private.address, "--front", "auto")


def shows(driver: Driver, pod: str, image: str, secrets: dict[str, str], **attributes: str) -> str:
    """What the pod's container reads."""
    target = driver.publish(pod, image, secrets, attributes=attributes)
    return (target / "file").read_text()


@pytest.mark.parametrize("policy", ["IfNotPresent", "Always", "Never"])
def test_an_image_on_the_node_is_shown_only_to_those_who_may_read_it(
    policy: str, driver: Driver, private: Private, tmp_path: Path
) -> None:
    name = private.push("team/app:1")
    assert shows(driver, "first", name, OF_ALICE) == "one"
    for mounted in (True, False):
        for number, secrets in enumerate(OTHERS):
            code, details = failure(
                lambda secrets=secrets, number=number: shows(  # type: ignore[misc] # mypy cannot type defaults
                    driver, f"other-{number}", name, secrets, pullPolicy=policy
                )
            )
            assert (code, "sha256" in details) == ("UNAUTHENTICATED", False), details
        assert shows(driver, "second", name, OF_BOB, pullPolicy=policy) == "one"
        driver.unpublish("second")
        if mounted:
            driver.unpublish("first")
    nothing_left(driver, tmp_path / "root", "first", "second", "other-0", "other-1")


def test_pods_start_while_the_registry_is_away_with_what_was_proved_on_the_node(
    driver: Driver, private: Private
) -> None:
    name = private.push("team/app:latest")
    assert shows(driver, "first", name, OF_ALICE) == "one"
    private.stop()
    assert shows(driver, "second", name, OF_ALICE) == "one"
    driver.unpublish("first")
    driver.unpublish("second")
    assert shows(driver, "third", name, OF_ALICE) == "one", "mounted anew, from the disk alone"
    for secrets in (*OTHERS, OF_BOB):
        code, details = failure(lambda secrets=secrets: shows(driver, "other", name, secrets))  # type: ignore[misc] # as above
        assert (code, "no answer" in details) == ("UNAVAILABLE", True), details
    driver.unpublish("third")
    private.start()
    assert shows(driver, "fourth", name, OF_BOB) == "one"


def test_a_volume_keeps_its_image_and_the_next_one_gets_what_the_tag_is_now(
    driver: Driver, private: Private
) -> None:
    name = private.push("team/app:latest")
    assert shows(driver, "first", name, OF_ALICE) == "one"
    private.push("team/app:latest", 1)
    assert shows(driver, "first", name, OF_ALICE) == "one"
    assert shows(driver, "next", name, OF_ALICE) == "two"
    assert shows(driver, "present", name, OF_ALICE, pullPolicy="IfNotPresent") == "two"
    assert shows(driver, "first", name, OF_ALICE) == "one"


def test_an_image_that_is_here_is_mounted_after_one_head(driver: Driver, private: Private) -> None:
    name = private.push("team/app:1")
    shows(driver, "first", name, OF_ALICE)
    driver.unpublish("first")
    before = len(private.answered())
    for number in range(3):
        assert shows(driver, f"pod-{number}", name, OF_BOB) == "one"
    (asked,) = private.answered()[before:]
    assert asked.startswith("HEAD sha256:")
