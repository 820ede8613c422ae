"""A volume that is there and not well is told of, and told of again once it is well: real servers
and reads, and a clock that the test turns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from csi.health import CACHE_AWAY, READS_FAIL, WELL_S, Health
from csi.watch import EVERY_S, VolumeWatch
from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.reports import Heard
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = needs_fuse


@dataclass
class Watched:
    """The volume `data` is read from, and who watches it."""

    data: Path
    heard: Heard
    watch: VolumeWatch
    now: float = 0.0

    def look(self, after_s: float = EVERY_S) -> list[str]:
        """What is told at the next look."""
        self.now += after_s
        self.watch.look()
        return self.heard.since()

    def read(self, offset: int) -> str:
        """How a read of one chunk ends."""
        try:
            with self.data.open("rb", buffering=0) as file:
                file.seek(offset)
                return "read" if file.read(100) else "nothing"
        except OSError as error:
            return str(error.strerror)


@pytest.fixture
def watched(start: Start, scripted: ScriptedRegistry, tmp_path: Path) -> Iterator[Watched]:
    """Nothing of its image is on the node, and the content cache has its index alone."""
    name = f"{scripted.address}/app:1"
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cache") as cache:
        shared = ["--content-cache", cache.url,
                  "--content-cache-token-file", str(tmp_path / "cache/token"),
                  "--index-key-file", str(tmp_path / "key")]  # fmt: skip # as typed by hand
        Node(tmp_path / "A", [*shared, "--plain-http", scripted.address]).json("index", name)
        for page in (tmp_path / "cache/objects/objects").glob("sha256_*/*"):
            page.unlink()
        uid = {"csi.storage.k8s.io/pod.uid": "u"}
        target = start(*shared).publish("pod", name, attributes=uid)
        heard = Heard()
        watch = VolumeWatch(Layout(tmp_path / "root"), heard, clock=lambda: found.now)
        found = Watched(target / "data", heard, watch)
        watch.look()
        yield found


def test_reads_that_fail_degrade_a_volume_until_none_has_failed_for_a_while(
    watched: Watched, scripted: ScriptedRegistry
) -> None:
    assert watched.look() == []
    scripted.refuse["blobs"] = 403
    assert watched.read(0) == "Permission denied"
    (told,) = watched.look()
    assert told == f"default/pod: {scripted.address}/app:1: {READS_FAIL}"
    assert watched.read(0) == "Permission denied"
    assert [watched.look(), watched.look(WELL_S - 1)] == [[], []], "it is told once"
    assert watched.look(1) == ["default/pod: well"]
    scripted.refuse.clear()
    assert watched.read(0) == "read"
    assert watched.look() == []


@pytest.mark.parametrize(
    ("errors", "lacks"),
    [
        ([0, 0, 0], ["", "", ""]),
        ([1, 1, 2, 2], ["", "", "", ""]),
        ([1, 2, 2, 3], ["", CACHE_AWAY, CACHE_AWAY, CACHE_AWAY]),
    ],
    ids=["never", "now and then", "away"],
)
def test_a_content_cache_is_away_if_it_does_not_answer_twice_in_a_row(
    errors: list[int], lacks: list[str]
) -> None:
    health = Health()
    found = [
        health.lack(failed=0, errors=count, now=number * EVERY_S)
        for number, count in enumerate(errors)
    ]
    assert found == lacks
    assert health.lack(failed=0, errors=errors[-1], now=WELL_S + 4 * EVERY_S) == ""


def test_reads_that_fail_are_told_before_a_content_cache_that_is_away() -> None:
    health = Health()
    health.lack(failed=0, errors=1, now=0)
    assert health.lack(failed=1, errors=2, now=EVERY_S) == READS_FAIL
    assert health.lack(failed=1, errors=3, now=WELL_S) == READS_FAIL
    assert health.lack(failed=1, errors=3, now=WELL_S + EVERY_S) == CACHE_AWAY
