"""A fault at every write of a publish: each system call that changes the root, spoilt in turn.

The points are not listed here: `tests.support.write_points` sees them as they are made, by the
driver, `clipfs mount`, its workers and its server, in a publish that nothing spoils. Then the
publish is made again with the N-th of them failing, or its process killed.

CLIP_TEST_WRITE_POINTS=all takes all of them (five to fifteen minutes), else it is a spread.
"""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from tests.support import images
from tests.support.at_once import at_once
from tests.support.content import run_content_server
from tests.support.driver import Driver, cleaned_up, run_driver
from tests.support.leftovers import diff_ids, litter, processes_of, unverified
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.wait import wait_for
from tests.support.write_points import Call, Fault, WritePoints, watched

pytestmark = [needs_fuse, pytest.mark.timeout(3600)]

ALL = os.environ.get("CLIP_TEST_WRITE_POINTS") == "all"
SPREAD = 2
"""Points of each fault, where not all are taken."""

FAULTS = {
    "no space from here on": Fault(at=0, error=errno.ENOSPC, stays=True),
    "an I/O error": Fault(at=0, error=errno.EIO),
    "kill -9": Fault(at=0),
}
DATA = os.urandom(300 << 10)
NOT_MET = "the fault was not met"
SCENARIOS = ("first pass", "fill from the registry", "fill from the content cache")
"""Two at a time: each waits much for the processes that it has killed, and for those of the next
publish."""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of one layer: its writes come in the same order each time."""
    home = tmp_path_factory.mktemp("points")
    (home / "1").mkdir()
    (home / "1/data").write_bytes(DATA)
    images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
    return home / "oci"


@pytest.fixture(scope="module")
def image(layout: Path, registry: RegistryServer) -> str:
    return images.push(layout, registry.address, "points:1")


@dataclass(slots=True)
class Victim:
    """A node under watch: its driver is started again whenever a fault killed it."""

    home: Path
    options: list[str]
    points: WritePoints
    image: str
    expected: dict[str, str]
    front: str
    stack: ExitStack = field(default_factory=ExitStack)
    driver: Driver = field(init=False)
    kept: Path = field(init=False)

    @property
    def root(self) -> Path:
        return self.points.root

    def start(self) -> None:
        self.stack.close()
        self.driver = self.stack.enter_context(
            run_driver(self.home / "home", self.options, root=self.root, points=self.points)
        )

    def publish(self) -> tuple[str, str]:
        """The code, "OK" if it was well and the bytes right, and the message."""
        try:
            target = self.driver.publish("pod", self.image, attributes={"front": self.front})
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
        assert (target / "data").read_bytes() == DATA
        return "OK", ""

    def attempt(self, fault: Fault) -> tuple[tuple[str, str], list[str]]:
        """A publish with the fault, and another without: the first one's outcome, complaints.

        A fault that was not met is tried again: the driver's collector may have shifted it.
        """
        for _ in range(3):
            outcome, wrong = self._attempt(fault)
            if NOT_MET not in wrong:
                break
        return outcome, wrong

    def _attempt(self, fault: Fault) -> tuple[tuple[str, str], list[str]]:
        self.points.watch(fault)
        try:
            outcome = self.publish()
        except OSError as error:  # its server was killed, or had better have been
            outcome = ("OK", "") if fault.error is None else ("a read failed", str(error))
        met = self.points.met
        self.points.watch()
        wrong = [] if met else [NOT_MET]
        wrong += unverified(self.root, self.expected)
        if met and fault.error is None and met.pid == self.driver.process.pid:
            self.driver.process.wait(20)
            self.start()
        if (again := self.publish()) != ("OK", ""):
            wrong.append(f"the next publish: {again}")
        wrong += unverified(self.root, self.expected)
        return outcome, [*wrong, *self.clear()]

    def clear(self) -> list[str]:
        """Unpublish, and forget what is cached, or all but the indexes; what stayed behind."""
        self.driver.unpublish("pod")
        left: list[str] = []

        def is_clean() -> bool:
            left[:] = litter(self.root, driver=self.driver.process.pid)
            if os.path.lexists(self.driver.target("pod")):
                left.append("target")
            return not left

        with suppress(TimeoutError):
            wait_for(is_clean)
        for path in (self.root / "cache").iterdir():
            path.unlink()
        if not self.kept.exists():
            shutil.copytree(self.root / "index", self.kept)
        for path in (self.root / "index").iterdir():
            path.unlink()
        for path in self.kept.iterdir():
            if self.front == "erofs" or path.name == "key":
                shutil.copy2(path, self.root / "index")
        return [f"it stays behind: {one}" for one in left]

    def calls_of_a_publish(self) -> list[Call]:
        """Those of the shorter of two: the driver's collector may add some of its own."""
        found = []
        for _ in range(2):
            wait_for(lambda: processes_of(self.root) == [self.driver.process.pid])
            self.points.watch()
            assert self.publish() == ("OK", "")
            found.append(list(self.points.calls))
            assert self.clear() == []
        return min(found, key=len)


@contextmanager
def victim(
    scenario: str, home: Path, image: str, layout: Path, registry: RegistryServer
) -> Iterator[Victim]:
    """A node that has nothing of the image, or its indexes and, behind it, a content cache."""
    options = ["--plain-http", registry.address]
    with ExitStack() as stack:
        if scenario == "fill from the content cache":
            (home / "cluster-key").write_text("the cluster's key\n")
            server = stack.enter_context(run_content_server(home / "content"))
            options += ["--content-cache", server.url,
                        "--content-cache-token-file", str(home / "content/token"),
                        "--index-key-file", str(home / "cluster-key")]  # fmt: skip # as typed
            Node(home / "A", options).json("index", image)
        stack.enter_context(cleaned_up(home))
        points = stack.enter_context(watched(home / "root"))
        front = "fuse" if scenario == "first pass" else "erofs"
        found = Victim(home, options, points, image, diff_ids(layout), front)
        found.kept = home / "kept"
        stack.enter_context(found.stack)
        found.start()
        assert found.publish() == ("OK", "")
        assert found.clear() == []
        yield found


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a scenario: how often each fault was met, and how often a publish succeeded with it."""

    points: int
    met: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def endings(
    request: pytest.FixtureRequest, image: str, layout: Path, registry: RegistryServer
) -> Iterator[Mapping[str, Future[Outcome]]]:
    test = test_a_fault_at_any_write_leaves_nothing_unverified_and_nothing_behind.__name__

    def body(scenario: str) -> Callable[[Path], Outcome]:
        return lambda home: spoil(scenario, home, image, layout, registry)

    bodies = {f"{test}[{scenario}]": body(scenario) for scenario in SCENARIOS}
    with at_once(request, bodies, most=2) as ends:
        yield ends


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_fault_at_any_write_leaves_nothing_unverified_and_nothing_behind(
    scenario: str,
    request: pytest.FixtureRequest,
    endings: Mapping[str, Future[Outcome]],
    say: Say,
) -> None:
    outcome = endings[request.node.name].result()
    say(f"{scenario}: {outcome.points} write points")
    for name, count in outcome.met.items():
        passed = outcome.passed[name]
        say(f"  {name}: met at {count} of them; {passed} publishes succeeded with it")
    assert outcome.wrong == []


def spoil(scenario: str, home: Path, image: str, layout: Path, registry: RegistryServer) -> Outcome:
    with victim(scenario, home, image, layout, registry) as node:
        calls = node.calls_of_a_publish()
        found = Outcome(len(calls))
        for number, (name, fault) in enumerate(FAULTS.items()):
            for at in points_of(number, len(calls)):
                outcome, complaints = node.attempt(replace(fault, at=at))
                complaints += judged(fault, outcome, node.root)
                found.wrong.extend(f"{name} at {at}, {calls[at]}: {one}" for one in complaints)
                found.met[name] += 1
                found.passed[name] += outcome[0] == "OK"
    return found


def points_of(number: int, count: int) -> range:
    """Where to put the fault of that number among count points."""
    if ALL:
        return range(count)
    step = count // SPREAD
    return range(number * step // len(FAULTS), count, step)


def judged(fault: Fault, outcome: tuple[str, str], root: Path) -> list[str]:
    """What is wrong with a publish's outcome."""
    code, said = outcome
    if code == "OK" or fault.error is None:
        return []
    code_of = {errno.ENOSPC: "RESOURCE_EXHAUSTED", errno.EIO: "INTERNAL"}
    names_it = os.strerror(fault.error) in said and str(root) in said
    return [] if code == code_of[fault.error] and names_it else [f"{code}: {said}"]
