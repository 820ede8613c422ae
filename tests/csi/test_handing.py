"""Credentials from the driver to the servers of images: both ends real, one socket between."""

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.driver import CredentialsSocket, Hello, held_credentials
from clipfs.image.held import HeldCredentials
from clipfs.system.socket_names import short_name
from csi.credentials.handing import Handing
from csi.credentials.lending import Lending
from csi.credentials.pull_secrets import PullSecrets
from csi.credentials.sources import GivenSecret, Source, Sources
from csi.pod import Pod
from csi.volume import Volume, name_of
from tests.support.volumes import Secrets, docker_config_of, volume_of
from tests.support.wait import wait_for

DIGEST = Digest("sha256:" + "a" * 64)
OTHER = Digest("sha256:" + "b" * 64)
START = RegistryConfig.single("h.io", "user", "start")


class Place:
    """A driver whose socket is at `path`; it may be started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "credentials.sock"
        self.secrets = Secrets()
        self._stack = ExitStack()
        self.make()

    def make(self) -> None:
        """A driver that knows no volume and does not answer yet."""
        sources: list[Source] = [GivenSecret(), PullSecrets(self.secrets, ["*"])]
        self.handing = Handing(
            self.path,
            Lending(Sources(sources, hosts_of=lambda registry: [registry])),
        )

    def start(self) -> None:
        self._stack.enter_context(self.handing.running())

    def stop(self) -> None:
        self._stack.close()

    def publish(self, name: str, password: str = "", image: Digest = DIGEST) -> Volume:
        """A volume with a secret of its own, or else with what its pod's secrets say."""
        secrets = {"username": "user", "password": password} if password else {}
        pod = Pod(namespace="team", name=name, uid=name)
        volume = volume_of("h.io/app:1", pod=pod, secrets=secrets, name=name)
        self.handing.volume_here(image, volume)
        return volume

    def pull_secret(self, name: str, password: str) -> None:
        self.secrets.by_pod[f"team/{name}"] = [docker_config_of({"h.io": password})]

    @asynccontextmanager
    async def server(
        self, of: Volume | None, config: RegistryConfig = START, image: Digest = DIGEST
    ) -> AsyncIterator[HeldCredentials]:
        """A server that began with config, which is of the volume."""
        volume = name_of(of.target) if of else ""
        where = CredentialsSocket(path=self.path, image=image, volume=volume)
        with trio.fail_after(30):
            async with held_credentials(config, where) as held:
                yield held


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.start()
    yield made
    made.stop()


def password(config: RegistryConfig) -> str | None:
    found = config.for_repository("h.io", "app")
    return found.password if found else None


async def holds(held: HeldCredentials, expected: str | None) -> None:
    """Wait for it: nobody asks."""
    await trio.to_thread.run_sync(wait_for, lambda: password(held.config) == expected, 20)


async def test_a_server_whose_credentials_are_refused_gets_what_the_source_says_now(
    place: Place,
) -> None:
    place.pull_secret("web", "start")
    volume = place.publish("web")
    async with place.server(volume) as held:
        place.pull_secret("web", "rotated")
        assert await held.renewed(refused=START)
        assert password(held.config) == "rotated"


async def test_where_a_source_says_the_same_there_are_no_others(place: Place) -> None:
    place.pull_secret("web", "start")
    volume = place.publish("web")
    async with place.server(volume) as held:
        assert not await held.renewed(refused=START)
        assert password(held.config) == "start"


async def test_a_secret_that_cannot_be_asked_for_again_gives_way_to_another_volumes(
    place: Place,
) -> None:
    first = place.publish("first", "start")
    place.publish("else", "not-this-image", image=OTHER)
    place.publish("second", "later")
    async with place.server(first) as held:
        assert await held.renewed(refused=START)
        assert password(held.config) == "later"


async def test_a_secret_that_came_with_a_later_publish_is_given_to_who_held_the_earlier(
    place: Place,
) -> None:
    volume = place.publish("web", "start")
    async with place.server(volume) as held:
        place.publish("web", "rotated")
        assert await held.renewed(refused=START)
        assert password(held.config) == "rotated"


async def test_with_a_volume_that_is_gone_its_credentials_go_and_anothers_come(
    place: Place,
) -> None:
    first, second = place.publish("first", "start"), place.publish("second", "later")
    async with place.server(first) as held, place.server(second) as other:
        await other.renewed(refused=START)  # both are connected: this one was answered
        await held.renewed(refused=START)
        place.handing.volume_gone(second.target)
        await holds(held, "start")
        await holds(other, "start")
        place.handing.volume_gone(first.target)
        await holds(held, None)
        assert not held.config.by_place


async def test_a_volume_that_is_gone_and_lent_nothing_changes_nothing(place: Place) -> None:
    first, second = place.publish("first", "start"), place.publish("second", "later")
    async with place.server(first) as held:
        place.handing.volume_gone(second.target)
        assert not await held.renewed(refused=START), "answered, so whatever came before is here"
        assert held.config is START


async def test_what_was_missed_while_a_server_was_away_is_told_when_it_comes(
    place: Place,
) -> None:
    first = place.publish("first", "start")
    place.publish("second", "later")
    place.handing.volume_gone(first.target)
    async with place.server(first) as held:
        await holds(held, "later")


async def test_a_server_outlives_its_driver_and_finds_the_next_one(place: Place) -> None:
    volume = place.publish("web")
    place.pull_secret("web", "start")
    async with place.server(volume) as held:
        assert not await held.renewed(refused=START), "answered, so they are connected"
        await trio.to_thread.run_sync(place.stop)
        assert held.config is START
        place.make()
        place.publish("web")
        place.pull_secret("web", "rotated")
        place.start()

        def is_renewed() -> bool:
            return trio.from_thread.run(partial(held.renewed, refused=START))

        await trio.to_thread.run_sync(wait_for, is_renewed)  # it was asked just now
        assert password(held.config) == "rotated"


async def test_a_server_waits_for_a_driver_that_restarts(place: Place) -> None:
    place.stop()
    place.make()
    place.pull_secret("web", "rotated")
    volume = place.publish("web")
    answers: list[bool] = []
    async with place.server(volume) as held, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await held.renewed(refused=START))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        place.start()
    assert answers == [True]


async def test_a_server_that_babbles_harms_nobody(place: Place) -> None:
    volume = place.publish("web")
    place.pull_secret("web", "rotated")
    for babble in (b"\n", b"[" * 100_000 + b"\n", b"{}\n", b"\xff\n", b'{"image": 1}\n', b"half"):
        with short_name(place.path) as name, socket.socket(socket.AF_UNIX) as mine:
            mine.connect(name)
            mine.sendall(babble)
            mine.shutdown(socket.SHUT_WR)
            mine.settimeout(30)
            assert mine.recv(100) == b""
    async with place.server(volume) as held:
        assert await held.renewed(refused=START)


class SlowSecrets(Secrets):
    """An API server that does not answer for the pod `slow` before `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waiting: list[Pod] = []

    def pull_secrets(self, pod: Pod, *, on_lack: Callable[[str], None]) -> list[bytes]:
        if pod.name == "slow":
            self.waiting.append(pod)
            self.gate.wait()
        return super().pull_secrets(pod, on_lack=on_lack)


async def test_many_who_wait_for_a_slow_source_keep_nobody_else_waiting(place: Place) -> None:
    place.stop()
    place.secrets = slow = SlowSecrets()
    place.make()
    place.start()
    place.publish("slow")
    place.pull_secret("web", "rotated")
    volume = place.publish("web", image=OTHER)
    ask = msgspec.json.encode(Hello(image=DIGEST, volume="")) + b"\n"
    with ExitStack() as stack:
        stack.callback(slow.gate.set)
        for _ in range(64):
            mine = stack.enter_context(socket.socket(socket.AF_UNIX))
            mine.connect(stack.enter_context(short_name(place.path)))
            mine.sendall(ask)
        await trio.to_thread.run_sync(wait_for, lambda: len(slow.waiting) >= 40)
        async with place.server(volume, image=OTHER) as held:
            assert await held.renewed(refused=START)


class BrokenSecrets(Secrets):
    """An API server that ends the thread which asks it."""

    def pull_secrets(self, pod: Pod, *, on_lack: Callable[[str], None]) -> list[bytes]:
        raise SystemExit


async def test_a_loop_that_has_died_keeps_no_driver_from_its_end(place: Place) -> None:
    place.stop()
    place.secrets = BrokenSecrets()
    place.make()
    place.start()
    place.publish("web")
    with socket.socket(socket.AF_UNIX) as mine:
        with short_name(place.path) as name:
            mine.connect(name)
        mine.sendall(msgspec.json.encode(Hello(image=DIGEST, volume="")) + b"\n")
        mine.settimeout(30)
        assert mine.recv(100) == b"", "its end"
        place.stop()
    assert not place.path.exists()


def test_a_loop_that_fails_before_it_answers_keeps_no_driver_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.stop()
    place.make()

    def no_listener(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio, "SocketListener", no_listener)
    with pytest.raises(errors.NodeFault, match="Too many open files"):
        place.start()
    assert not place.path.exists()


NOBODY = 65534


def test_another_user_is_told_nothing(place: Place, tmp_path: Path) -> None:
    """Even if somebody opened the way to the socket for all."""
    place.pull_secret("web", "rotated")
    place.publish("web")
    tmp_path.chmod(0o755)
    assert place.path.stat().st_mode & 0o777 == 0o600
    place.path.chmod(0o666)
    told = {}
    for uid in (NOBODY, os.geteuid()):
        told[uid] = subprocess.run(
            [sys.executable, "-c", _ASK, str(uid), str(place.path), DIGEST],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip  # one command
    assert told == {NOBODY: "nothing", os.geteuid(): "credentials"}


_ASK = """
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[2]))
os.setresuid(*[int(sys.argv[1])] * 3)
mine = socket.socket(socket.AF_UNIX)
mine.settimeout(30)
try:
    mine.connect("./credentials.sock")
    mine.sendall(b'{"image": "%s", "volume": ""}\\n' % sys.argv[3].encode())
    print("credentials" if b"rotated" in mine.recv(10000) else "nothing")
except ConnectionError:
    print("nothing")
"""


async def test_a_socket_below_a_long_path_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    place = Place(folder)
    place.start()
    try:
        place.pull_secret("web", "rotated")
        async with place.server(place.publish("web")) as held:
            assert await held.renewed(refused=START)
    finally:
        place.stop()


async def test_a_sockets_name_left_by_a_killed_driver_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, short_name(tmp_path / "credentials.sock") as name:
        dead.bind(name)
    place = Place(tmp_path)
    place.start()
    place.pull_secret("web", "rotated")
    async with place.server(place.publish("web")) as held:
        assert await held.renewed(refused=START)
    place.stop()
    assert not place.path.exists()
