"""Rounds of `kill -9`: worker, command, server and driver die at random moments of real work.

Each round brings a node into a state, publishes two images that share a layer (or reads them
lazily), kills one process while requests are in flight, and then wants everything right: what
lies under `cache/`, the next publish, every byte, and nothing left behind. A kill with nothing
in flight does not count, and is made again.

CLIP_TEST_KILL_ROUNDS=50 makes so many rounds; CLIP_TEST_SEED=N makes those of that seed.
"""

import errno
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.csi.slow_node import PODS, Scene, hash_of, run_scene
from tests.support.driver import commands, servers
from tests.support.fusectl import in_flight
from tests.support.machine import needs_fuse
from tests.support.processes import command_line, descendants, short_name
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.wait import wait_for

pytestmark = [needs_fuse, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("CLIP_TEST_KILL_ROUNDS", "8"))
SEED = int(os.environ.get("CLIP_TEST_SEED", "1"))
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
"""What readers get whose server has died."""

WORKERS = ("layer.worker", "tree.worker")

STATES = {
    "worker": ("new", "known"),
    "fork server": ("new",),  # what is indexed has none
    "command": ("new", "known", "shared"),
    "launcher": ("new", "known", "shared"),
    "driver": ("new", "known", "shared"),
    "server": ("known", "shared"),
}
"""Of each victim the states (`Scene.prepare`) in which it has something to do."""


FAILS = {
    "worker": {"INTERNAL"},
    "command": {"INTERNAL"},
    "launcher": {"INTERNAL"},
    "driver": {"UNAVAILABLE"},
}
"""How a publish may end whose victim was killed: the fork server's is not missed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """What a round came to; `requests` were in flight, `wrong` are complaints."""

    what: str
    requests: int
    wrong: list[str]


def publishes_killed(scene: Scene, victim: str, state: str) -> Kill | None:
    """Two publishes at once and a kill among them; None if it came too late to count."""
    scene.prepare(state)
    front = "fuse" if state == "new" else "erofs"
    scene.slow(True)
    usual_s = scene.usual_s.get((victim, state), 1.5)
    delay_s = scene.dice.uniform(0, usual_s)
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(scene.publish, place, front) for place in range(2)]
        wait(calls, timeout=delay_s)
        pid = victim_of(scene, victim, calls)
        waiting = [place for place, call in enumerate(calls) if not call.done()]
        if pid is not None and waiting:
            os.kill(pid, signal.SIGKILL)
        at_s = time.monotonic() - begin
        scene.slow(False)
    if pid is None or not waiting:
        scene.usual_s[victim, state] = usual_s * 0.8
        return None
    scene.usual_s[victim, state] = usual_s * 1.1
    if victim == "driver":
        scene.driver.process.wait(20)
    codes = [code_of(call) for call in calls]
    wrong = []
    allowed = {"OK"} | FAILS.get(victim, set())
    if not set(codes) <= allowed or codes.count("INTERNAL") > (2 if victim == "launcher" else 1):
        wrong.append(f"the calls ended with {codes}")
    what = f"{victim} {pid}, {at_s:.2f} s into 2 publishes ({state}, {front}): {codes}"
    return Kill(what, len(waiting), wrong + scene.judged(front))


def reads_killed(scene: Scene, victim: str, state: str) -> Kill | None:
    """Two volumes whose bytes are elsewhere, read by all; one of their servers is killed."""
    scene.prepare(state)
    scene.slow(False)
    targets = [scene.publish(place, "fuse") for place in range(2)]
    dead = scene.dice.randrange(2)
    scene.slow(True)
    delay_s = scene.dice.uniform(0, 1)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(16))
        count = stack.enter_context(
            in_flight(targets[dead], scene.home / f"fusectl-{time.time_ns()}")
        )
        begin = time.monotonic()
        reads = [
            {name: pool.submit(hash_of, target / name) for name in image.tree}
            for target, image in zip(targets, scene.pair, strict=True)
        ]
        wait(reads[dead].values(), timeout=delay_s)
        (pid,) = [pid for pid in servers(scene.root) if serves(pid, scene, dead)]
        requests = count()
        if requests:
            os.kill(pid, signal.SIGKILL)
        at_s = time.monotonic() - begin
        scene.slow(False)
    wrong = []
    for place, (image, found) in enumerate(zip(scene.pair, reads, strict=True)):
        for name, read in found.items():
            error = read.exception()
            if error is None and read.result() != image.tree[name]:
                wrong.append(f"a wrong byte in {name}")
            is_dead = isinstance(error, OSError) and error.errno in DEAD
            if error is not None and not (place == dead and requests and is_dead):
                wrong.append(f"{name} of {image.name}: {error!r}")
    if not requests:
        assert wrong + scene.clear() == []
        return None
    scene.driver.unpublish(PODS[dead])  # its pod is replaced
    failed = sum(read.exception() is not None for read in reads[dead].values())
    what = f"server {pid}, {at_s:.2f} s into reads ({state}): {failed} reads failed"
    return Kill(what, requests, wrong + scene.judged("fuse"))


def serves(pid: int, scene: Scene, place: int) -> bool:
    """Whether the process serves that image."""
    repository = scene.pair[place].name.partition(":")[0]
    return repository.encode() in command_line(Path(f"/proc/{pid}"))


def victim_of(scene: Scene, victim: str, calls: list[Future[Path]]) -> int | None:
    """A process of that kind, waiting for one while calls are in flight; None if none came."""
    if victim == "driver":
        return scene.driver.process.pid
    names = WORKERS if victim == "worker" else (victim,)

    def found() -> list[int]:
        if victim == "command":
            return commands(scene.driver)
        return [p for p in descendants(scene.driver.process.pid) if short_name(p) in names]

    wait_for(lambda: found() or all(call.done() for call in calls), 60)
    pids = found()
    return scene.dice.choice(pids) if pids else None


def code_of(call: Future[Path]) -> str:
    error = call.exception()
    if error is None:
        return "OK"
    assert isinstance(error, grpc.RpcError)
    return str(error.code().name)


@pytest.fixture
def scene(registry: RegistryServer, tmp_path: Path) -> Iterator[Scene]:
    with run_scene(tmp_path, registry, random.Random(SEED)) as found:
        yield found


def test_whoever_is_killed_nothing_unverified_is_shown_and_nothing_stays(
    scene: Scene, say: Say
) -> None:
    say(f"{ROUNDS} rounds, seed {SEED}")
    victims, requests, vain = Counter[str](), 0, 0
    order = list(STATES) * (ROUNDS // len(STATES) + 1)
    for number, victim in enumerate(order[:ROUNDS], 1):
        kill = None
        while kill is None:
            state = scene.dice.choice(STATES[victim])
            run = reads_killed if victim == "server" else publishes_killed
            kill = run(scene, victim, state)
            vain += kill is None
        victims[victim] += 1
        requests += kill.requests
        say(f"{number:3}: {kill.requests} in flight; {kill.what}")
        assert kill.wrong == [], kill.what
    say(f"killed {dict(victims)}, {requests} requests in flight; {vain} came too late")
