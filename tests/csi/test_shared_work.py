"""Images that take longer than a call: each call is answered in time, and the work is done once.

A real driver on its socket, a real registry behind a relay with a pace, real mounts.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.counting_registry import CountingRegistry, counting_registry
from tests.support.driver import (
    Driver,
    at_work,
    commands,
    failure,
    mounts_below,
    nothing_left,
    servers,
)
from tests.support.leftovers import diff_ids, litter
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.throttle import Throttle, throttle
from tests.support.wait import wait_for

pytestmark = needs_fuse

CRAWL = 40_000.0
"""Bytes a second: the image's 3 MiB would take over a minute."""

SHORT_S = 6
"""A call's time: it is answered after a second."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The image at a registry with a pace, which counts what it sends."""

    name: str
    layer: str
    size: int
    pace: Throttle
    registry: CountingRegistry

    def layer_bytes(self) -> int:
        """What the registry has sent of the image's one layer."""
        return self.registry.sent[self.layer]


@pytest.fixture
def slow(image: str, layout: Path, registry: RegistryServer) -> Iterator[Slow]:
    (key,) = diff_ids(layout)
    digest = key.replace("_", ":")
    size = (layout / "blobs" / digest.replace(":", "/")).stat().st_size
    with counting_registry(registry.address) as counting, throttle(counting.address) as pace:
        pace.bytes_per_s = CRAWL
        yield Slow(f"{pace.address}/{image.partition('/')[2]}", digest, size, pace, counting)


def starts(start: Start, slow: Slow, *options: str, **others: float) -> Driver:
    return start("--plain-http", slow.pace.address, *options, **others)


def sent_away(driver: Driver, pod: str, name: str) -> str:
    """The message of a publish that was answered in time, but not with a volume."""
    code, details = failure(lambda: driver.publish(pod, name, within_s=SHORT_S))
    assert code == "ABORTED", details
    assert details.startswith(f"{name}: ")
    return details.removeprefix(f"{name}: ")


def is_mounted_unseen(root: Path) -> bool:
    """Whether the image's tree is there, whoever shows it."""
    return bool(mounts_below(root / "run/images"))


def test_a_publish_that_needs_many_calls_tells_each_how_far_it_is_and_downloads_once(
    start: Start, slow: Slow, layout_data: bytes, tmp_path: Path
) -> None:
    driver = starts(start, slow)
    figures = re.compile(
        r"indexing layer 1 of 1: (\d+)%, .* of 3\.\d MB, (.*/s, about .* left|nothing comes .*)"
    )
    seen: list[int] = []
    while len(seen) < 3 or seen[-1] == 0:
        match = figures.fullmatch(said := sent_away(driver, "pod", slow.name))
        assert match or said in ("indexing 1 layer", "waiting for its turn"), said
        seen.append(int(match[1]) if match else 0)
        assert list(driver.target("pod").parent.iterdir()) == []
    assert seen == sorted(seen)
    levels = {line["level"] for line in driver.lines() if line.get("code") == "ABORTED"}
    assert levels == {"info"}
    slow.pace.bytes_per_s = None
    assert (driver.publish("pod", slow.name) / "data").read_bytes() == layout_data
    assert slow.layer_bytes() == slow.size
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


def test_pods_of_one_image_wait_for_one_piece_of_work(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow)
    with ThreadPoolExecutor() as pool:
        pods = ["a", "b", "c"]
        calls = [pool.submit(sent_away, driver, pod, slow.name) for pod in pods]
        assert all(call.result() for call in calls)
        wait_for(lambda: len(commands(driver)) == 1)
        (command,) = commands(driver)
        again = [pool.submit(driver.publish, pod, slow.name) for pod in pods]
        assert commands(driver) == [command]
        slow.pace.bytes_per_s = None
        for call in again:
            assert (call.result() / "hello").read_text() == "world\n"
    assert len(servers(tmp_path / "root")) == 1
    for pod in pods:
        driver.unpublish(pod)
    nothing_left(driver, tmp_path / "root", *pods)


def test_a_tree_that_was_done_after_its_call_waits_for_the_next_whoever_comes_and_goes(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow)
    sent_away(driver, "pod", slow.name)
    slow.pace.bytes_per_s = None
    wait_for(lambda: is_mounted_unseen(tmp_path / "root"), 60)
    wait_for(lambda: not commands(driver))
    (server,) = servers(tmp_path / "root")
    driver.publish("other", slow.name)
    driver.unpublish("other")
    assert (driver.publish("pod", slow.name) / "hello").read_text() == "world\n"
    assert (servers(tmp_path / "root"), slow.layer_bytes()) == ([server], slow.size)
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


@pytest.mark.parametrize("finishes", [False, True], ids=["under-way", "done"])
def test_a_pod_that_is_deleted_while_its_image_comes_leaves_nothing_after_the_linger(
    finishes: bool, start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow, linger_s=3)
    sent_away(driver, "pod", slow.name)
    driver.unpublish("pod")
    if finishes:
        slow.pace.bytes_per_s = None
    wait_for(lambda: not at_work(driver), 60)
    wait_for(lambda: litter(tmp_path / "root", driver=driver.process.pid) == [], 60)
    nothing_left(driver, tmp_path / "root", "pod")
    slow.pace.bytes_per_s = None
    assert (driver.publish("pod", slow.name) / "hello").read_text() == "world\n"


def test_without_a_linger_the_work_ends_with_its_last_call_and_not_before(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow, linger_s=0)
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(driver.publish, "patient", slow.name)
        wait_for(lambda: len(commands(driver)) == 1)
        (command,) = commands(driver)
        sent_away(driver, "hasty", slow.name)
        assert commands(driver) == [command]
        slow.pace.bytes_per_s = None
        assert (patient.result() / "hello").read_text() == "world\n"
    slow.pace.bytes_per_s = CRAWL
    driver.unpublish("patient")
    nothing_left(driver, tmp_path / "root", "patient", "hasty")


def test_sigterm_answers_who_waits_and_the_next_driver_begins_with_a_clean_root(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    first = starts(start, slow)
    sent_away(first, "away", slow.name)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(failure, lambda: first.publish("pod", slow.name))
        wait_for(lambda: len(commands(first)) == 1)
        first.process.terminate()
        code, details = call.result()
    assert (code, first.process.wait(20)) == ("ABORTED", 0)
    assert details.startswith(f"{slow.name}: ")
    assert "the driver ends" in details
    assert litter(tmp_path / "root", driver=0) == []
    slow.pace.bytes_per_s = None
    second = starts(start, slow)
    assert (second.publish("pod", slow.name) / "hello").read_text() == "world\n"


@pytest.mark.parametrize("finished", [False, True], ids=["under-way", "done"])
def test_a_driver_that_is_killed_leaves_the_next_a_clean_start(
    finished: bool, start: Start, slow: Slow, tmp_path: Path
) -> None:
    first = starts(start, slow)
    sent_away(first, "pod", slow.name)
    if finished:
        slow.pace.bytes_per_s = None
        wait_for(lambda: is_mounted_unseen(tmp_path / "root"), 60)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = starts(start, slow)
    nothing_left(second, tmp_path / "root", "pod")
    slow.pace.bytes_per_s = None
    assert (second.publish("pod", slow.name) / "hello").read_text() == "world\n"
    second.unpublish("pod")
    nothing_left(second, tmp_path / "root", "pod")
    wait_for(lambda: litter(tmp_path / "root", driver=second.process.pid) == [])


def test_work_that_fails_tells_all_who_wait_the_same_and_the_next_publish_starts_anew(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    name = f"{scripted.address}/app:1"
    scripted.spoil = True
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(failure, lambda pod=pod: driver.publish(pod, name))  # type: ignore[misc] # a default is the loop's
            for pod in ("a", "b")
        ]
        assert scripted.at_gate.wait(60)
        scripted.open_gate()
        (code, details), other = (call.result() for call in calls)
    assert (code, other) == ("DATA_LOSS", (code, details))
    nothing_left(driver, tmp_path / "root", "a", "b")
    scripted.spoil = False
    assert (driver.publish("a", name) / "hello").read_text() == "world\n"


def test_a_failure_between_two_calls_is_told_to_the_next(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    name = f"{scripted.address}/app:1"
    scripted.spoil = True
    scripted.close_gate()
    sent_away(driver, "pod", name)
    assert scripted.at_gate.wait(60)
    scripted.open_gate()
    wait_for(lambda: not commands(driver), 60)
    reads = len(scripted.layer_reads())
    scripted.close_gate()
    assert failure(lambda: driver.publish("pod", name, within_s=60))[0] == "DATA_LOSS"
    assert len(scripted.layer_reads()) == reads
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_front_of_its_own_waits_for_the_other_and_both_are_told_how_far_that_is(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow)
    with ThreadPoolExecutor() as pool:
        lazy = pool.submit(driver.publish, "lazy", slow.name)
        wait_for(lambda: len(commands(driver)) == 1)
        whole = driver.publish_request("whole", slow.name, attributes={"front": "erofs"})
        driver.target("whole").parent.mkdir(parents=True)
        figures = re.compile(f"{slow.name}: indexing layer 1 of 1: \\d+%, .*")
        details = ""
        while not figures.fullmatch(details):
            code, details = failure(
                lambda: driver.call("Node/NodePublishVolume", whole, within_s=SHORT_S)
            )
            assert code == "ABORTED"
        assert len(commands(driver)) == 1
        slow.pace.bytes_per_s = None
        assert (lazy.result() / "hello").read_text() == "world\n"
    driver.call("Node/NodePublishVolume", whole)
    assert (driver.target("whole") / "hello").read_text() == "world\n"
    for pod in ("lazy", "whole"):
        driver.unpublish(pod)
    nothing_left(driver, tmp_path / "root", "lazy", "whole")


def test_a_call_that_waits_for_an_identical_one_is_answered_in_its_own_time(
    start: Start, slow: Slow
) -> None:
    driver = starts(start, slow)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(driver.publish, "pod", slow.name)
        wait_for(lambda: len(commands(driver)) == 1)
        said = sent_away(driver, "pod", slow.name)
        assert re.match(r"indexing (1 layer|layer 1 of 1: \d+%)", said), said
        slow.pace.bytes_per_s = None
        assert (first.result() / "hello").read_text() == "world\n"


def test_a_command_that_does_not_stop_when_asked_is_killed(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    driver = starts(start, slow, linger_s=1)
    sent_away(driver, "pod", slow.name)
    (command,) = commands(driver)
    os.kill(command, signal.SIGSTOP)
    wait_for(lambda: not at_work(driver), 60)
    nothing_left(driver, tmp_path / "root", "pod")


def test_the_next_publish_after_an_answer_may_be_of_another_image(
    start: Start, slow: Slow, other_image: str, tmp_path: Path
) -> None:
    """The pod was deleted and another one with its volume's name came."""
    driver = starts(start, slow, linger_s=0)
    sent_away(driver, "pod", slow.name)
    driver.unpublish("pod")
    assert (driver.publish("pod", other_image) / "hello").read_text() == "other\n"
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_call_without_a_deadline_waits_as_long_as_the_kubelet_would(
    driver: Driver, image: str
) -> None:
    driver.target("pod").parent.mkdir(parents=True)
    call = driver.channel.unary_unary(
        "/csi.v1.Node/NodePublishVolume",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=bytes,
    )
    assert call(driver.publish_request("pod", image)) == b""
    assert (driver.target("pod") / "hello").read_text() == "world\n"


def test_a_node_that_waits_for_another_one_tells_how_far_that_is(
    start: Start, slow: Slow, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("the cluster's key\n")
    with run_content_server(tmp_path / "cache") as cache:
        driver = starts(start, slow, "--content-cache", cache.url,
                        "--content-cache-token-file", str(tmp_path / "cache/token"),
                        "--index-key-file", str(tmp_path / "key"))  # fmt: skip # as typed by hand
        progress = {"downloaded_bytes": 1_500_000, "total_bytes": slow.size}
        words = (
            r"layer 1 of 1: waiting for another node, which has 47%, 1\.5 of 3\.1 MB, "
            "nothing comes just now"
        )
        body = json.dumps({"holder": "a-node.process", "progress": progress}).encode()
        key = slow.layer.replace(":", "_")
        said = ""
        while not re.fullmatch(words, said):
            assert cache.ask("PUT", f"/v1/claims/{key}", body).status in (200, 201)
            said = sent_away(driver, "pod", slow.name)
        assert slow.layer_bytes() == 0
        driver.unpublish("pod")
