"""Sources and registries that are silent: each call is answered in time and told who is asked.

A real driver on its socket, plugins that are programs, a registry that takes connections and
says nothing. But for the last, which asks without a driver.
"""

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.model import Image
from csi.admissions import Admissions
from csi.asker import Asker
from csi.calls import Call
from csi.credentials.asking import Asking
from csi.credentials.sources import GivenSecret, Sources
from csi.errors import StillIndexing
from csi.volume import Volume
from tests.csi.conftest import Start
from tests.support.driver import Driver, at_work, failure, nothing_left
from tests.support.plugins import Plugins
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.volumes import volume_of
from tests.support.wait import wait_for

SHORT_S = 6
"""A call's time: it is answered after a second."""

HANGS = "import time\nif calls == 1: time.sleep(300)\n"


@dataclass
class Silent:
    """A registry that takes connections and never says a word."""

    listening: socket.socket
    taken: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listening.getsockname()[1]}"

    def take(self) -> int:
        """Accept the connections that have been made; how many there are so far."""
        self.listening.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.taken.append(self.listening.accept()[0])
        return len(self.taken)

    def is_left(self) -> bool:
        """Whether the other end of its one connection has gone."""
        (one,) = self.taken
        one.settimeout(0)
        try:
            while one.recv(4096):
                pass
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def silent() -> Iterator[Silent]:
    with ExitStack() as stack:
        made = Silent(stack.enter_context(socket.create_server(("127.0.0.1", 0))))
        yield made
        for one in made.taken:
            one.close()


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def options_of(plugins: Plugins) -> list[str]:
    return ["--image-credential-provider-config", str(plugins.file),
            "--image-credential-provider-bin-dir", str(plugins.folder)]  # fmt: skip # as typed


def sent_away(driver: Driver, pod: str, name: str) -> str:
    """What a publish that is answered in time says, without the image's name."""
    code, details = failure(lambda: driver.publish(pod, name, within_s=SHORT_S))
    assert code == "ABORTED", details
    assert details.startswith(f"{name}: ")
    return details.removeprefix(f"{name}: ")


def test_a_registry_that_is_silent_is_named_and_the_next_call_joins_the_same_question(
    start: Start, silent: Silent, tmp_path: Path
) -> None:
    driver = start("--plain-http", silent.address)
    name = f"{silent.address}/app:1"
    words = re.escape(f"asking registry {silent.address} whether this pod may read it, for ")
    waited = []
    for _ in range(3):
        match = re.fullmatch(rf"{words}(\d+) s", said := sent_away(driver, "pod", name))
        assert match, said
        waited.append(int(match[1]))
    assert waited[0] < waited[1] < waited[2]
    assert silent.take() == 1
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")


def test_a_call_that_waits_for_an_identical_one_is_told_who_is_asked(
    start: Start, silent: Silent
) -> None:
    driver = start("--plain-http", silent.address, linger_s=0)
    name = f"{silent.address}/app:1"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(failure, lambda: driver.publish("pod", name, within_s=3 * SHORT_S))
        wait_for(silent.take)
        assert sent_away(driver, "pod", name).startswith(f"asking registry {silent.address} ")
        assert first.result()[0] == "ABORTED"


def test_a_question_that_nobody_comes_back_for_ends(start: Start, silent: Silent) -> None:
    driver = start("--plain-http", silent.address, linger_s=0)
    sent_away(driver, "pod", f"{silent.address}/app:1")
    assert silent.take() == 1
    wait_for(silent.is_left)


def test_a_plugin_that_hangs_is_named_and_the_next_call_joins_the_same_run(
    start: Start, scripted: ScriptedRegistry, plugins: Plugins
) -> None:
    plugins.add("ecr", HANGS, match=[scripted.address])
    driver = start(*options_of(plugins))
    for _ in range(3):
        said = sent_away(driver, "pod", f"{scripted.address}/app:1")
        assert re.fullmatch(r"asking the credential provider ecr, for \d+ s", said), said
    assert len(plugins.calls("ecr")) == 1


@pytest.mark.parametrize("ends", ["linger", "sigterm"])
def test_a_plugin_whose_answer_nobody_wants_is_ended(
    ends: str, start: Start, scripted: ScriptedRegistry, plugins: Plugins
) -> None:
    plugins.add("ecr", HANGS, match=[scripted.address])
    driver = start(*options_of(plugins), linger_s=0 if ends == "linger" else 300)
    if ends == "linger":
        sent_away(driver, "pod", f"{scripted.address}/app:1")
        wait_for(lambda: not at_work(driver))
        return
    sent_away(driver, "pod", f"{scripted.address}/app:1")
    (plugin,) = at_work(driver)
    driver.process.terminate()
    assert driver.process.wait(20) == 0
    assert not Path(f"/proc/{plugin}").exists()


def test_an_answer_that_came_between_two_calls_is_the_next_ones(
    start: Start, scripted: ScriptedRegistry, plugins: Plugins
) -> None:
    """Were the plugin asked once more, it would never be done in time."""
    gate = plugins.folder.parent / "gate"
    body = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
    body += f'answer["auth"] = auth(**{{{scripted.address!r}: "pw"}})\n'
    body += f'answer["cacheDuration"] = "0s"\nos.remove({str(gate)!r})\n'
    plugins.add("ecr", body, match=[scripted.address])
    scripted.wants = "user:pw"
    driver = start(*options_of(plugins))
    sent_away(driver, "pod", f"{scripted.address}/own:1")
    gate.touch()
    wait_for(lambda: not at_work(driver))
    target = driver.publish("pod", f"{scripted.address}/own:1")
    assert (target / "hello").read_text() == "world\n"
    assert len(plugins.calls("ecr")) == 1


def test_a_call_that_comes_again_with_other_credentials_asks_anew() -> None:
    sources = Sources([GivenSecret()], hosts_of=lambda registry: [registry])
    shown: list[str] = []
    gate = threading.Event()

    def admit(
        volume: Volume, credentials: RegistryConfig, *, pinned: Digest | None = None, asker: Asker
    ) -> Image:
        assert gate.wait(60)
        shown.extend(one.password for one in credentials.by_place.values())
        return Image(reference=volume.image, digest=Digest("sha256:" + "a" * 64), layers=())

    admissions = Admissions(admit, Asking(sources, namespaces=()))
    first, other = (
        volume_of("h.io/app:1", secrets={"username": "user", "password": one})
        for one in ("first", "other")
    )
    with pytest.raises(StillIndexing):
        admissions.joined(first, None, Call(answer_by=0))
    gate.set()
    wait_for(lambda: shown == ["first"])
    for volume in (other, first):
        _, chosen = admissions.joined(volume, None, Call())
        assert chosen.config == volume.credentials
    assert shown == ["first", "other"]
    admissions.end()
