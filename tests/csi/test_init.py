"""PID 1 of the driver's container, in a process namespace of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.driver import Driver, cleaned_up, servers
from tests.support.machine import CLIP_CSI, needs_fuse
from tests.support.node import alive
from tests.support.processes import children, command_line, descendants
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for
from tests.support.without import changed_environment

pytestmark = needs_fuse

CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(slots=True)
class Container:
    """`clip-csi node` as PID 1. Its pids are those that this side sees."""

    process: subprocess.Popen[bytes]
    init: int
    driver: Driver

    def drivers(self) -> list[int]:
        """Children of PID 1 that are the driver's, not servers of images."""
        return [
            pid
            for pid in children(self.init)
            if f"{CLIP_CSI}\0".encode() in command_line(Path(f"/proc/{pid}"))
        ]

    def seen(self, path: Path) -> Path:
        """A path as the container sees it: its mounts are its own."""
        return Path(f"/proc/{self.init}/root{path}")


@contextmanager
def run_container(home: Path, *options: str, root: Path) -> Iterator[Container]:
    home.mkdir(parents=True, exist_ok=True)
    socket, log = home / "csi.sock", home / "log"
    command = [
        *CONTAINER, CLIP_CSI, "node", "--endpoint", f"unix://{socket}", "--node-id", "n",
        "--kubelet-root", str(home / "kubelet"), "--root", str(root),
        "--log-format", "json", *options,
    ]  # fmt: skip
    with log.open("ab") as err:
        process = subprocess.Popen(command, stderr=err, stdin=subprocess.DEVNULL)
    try:
        wait_for(socket.exists, 30)
        (init,) = children(process.pid)
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            yield Container(process, init, Driver(process, channel, home / "kubelet", log))
    finally:
        process.kill()  # and by --kill-child everything in the namespace
        process.wait(20)


@pytest.fixture
def container(registry: RegistryServer, tmp_path: Path) -> Iterator[Container]:
    options = ["--plain-http", registry.address, "--front", "fuse"]
    with (
        cleaned_up(tmp_path),
        run_container(tmp_path / "home", *options, root=tmp_path / "root") as one,
    ):
        yield one


def test_pid_1_is_a_small_process_above_the_driver(container: Container) -> None:
    assert len(container.drivers()) == 1
    status = Path(f"/proc/{container.init}/status").read_text()
    assert "NSpid:\t" in status
    assert status.split("NSpid:")[1].split()[1] == "1"
    loaded = Path(f"/proc/{container.init}/maps").read_text()
    assert "grpc" not in loaded, "it forks before the driver imports anything"


SLOW_TO_LOAD = """
import importlib, os, sys

with open(os.environ["LOADS"]) as fifo:
    fifo.read()
sys.path.remove(os.path.dirname(__file__))
del sys.modules["click"]
sys.modules["click"] = importlib.import_module("click")
"""
CONSOLE_SCRIPT = """
import pathlib, pkgutil, sys, tomllib

scripts = tomllib.loads(pathlib.Path(sys.argv.pop(1)).read_text())["project"]["scripts"]
pkgutil.resolve_name(scripts["clip-csi"])()
"""


def test_sigterm_that_comes_while_the_command_is_loaded_ends_it(tmp_path: Path) -> None:
    loads = tmp_path / "loads"
    os.mkfifo(loads)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/click.py").write_text(SLOW_TO_LOAD)
    root = Path(__file__).parents[2]
    command = [
        *CONTAINER, sys.executable, "-c", CONSOLE_SCRIPT, str(root / "pyproject.toml"), "node",
        "--endpoint", f"unix://{tmp_path}/csi.sock", "--node-id", "n",
        "--kubelet-root", str(tmp_path / "kubelet"), "--root", str(tmp_path / "root"),
    ]  # fmt: skip
    path = f"{tmp_path}/slow:{root}"
    env = {**os.environ, "LOADS": str(loads), "PYTHONPATH": path}
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        with loads.open("w"):  # it is being loaded
            (init,) = children(process.pid)
            os.kill(init, signal.SIGTERM)
        try:
            assert process.wait(60) in (0, 128 + signal.SIGTERM)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT],
                         ids=["kill", "term", "abort"])  # fmt: skip
def test_a_driver_that_ends_by_itself_is_started_again_and_volumes_survive(
    number: signal.Signals, container: Container, image: str
) -> None:
    target = container.seen(container.driver.publish("pod", image))
    (first,) = container.drivers()
    with (target / "data").open("rb") as held:
        os.kill(first, number)
        wait_for(lambda: any(pid != first for pid in container.drivers()))
        assert len(held.read()) == 3 << 20
    assert container.process.poll() is None
    wait_for(lambda: "volume adopted" in container.driver.log.read_text())
    every = [json.loads(line) for line in container.driver.log.read_text().splitlines()]
    (line,) = [one for one in every if "starting it again" in one["event"]]
    assert (line["level"], line["code"] != 0) == ("error", number != signal.SIGTERM)
    grpc.channel_ready_future(container.driver.channel).result(30)
    container.driver.unpublish("pod")
    assert not target.exists()


def test_sigterm_of_pid_1_ends_the_driver_and_pid_1_with_its_exit_code(
    container: Container, tmp_path: Path
) -> None:
    os.kill(container.init, signal.SIGTERM)
    assert container.process.wait(30) == 0
    assert not (tmp_path / "home/csi.sock").exists()
    assert "driver ends, volumes stay" in container.driver.log.read_text()


def test_orphans_of_the_driver_are_reaped(container: Container, image: str, tmp_path: Path) -> None:
    container.driver.publish("pod", image)
    (server,) = set(children(container.init)) - set(container.drivers())
    assert len(servers(tmp_path / "root")) == 1
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not alive(server))
    assert [pid for pid in descendants(container.init) if zombie(pid)] == []


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["node", "--help"], 0, id="help-of-node"),
        pytest.param(["--version"], 0, id="version"),
        pytest.param(["node"], 2, id="usage"),
        pytest.param(["nothing"], 2, id="unknown"),
    ],
)
def test_what_is_no_driver_is_not_supervised(words: list[str], code: int) -> None:
    done = subprocess.run(
        [*CONTAINER, CLIP_CSI, *words], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == code


SUPERVISED = """
import os, signal, sys
from csi.init import supervise
supervise()
{body}
"""


def supervised(
    body: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CONTAINER, sys.executable, "-c", SUPERVISED.format(body=body)],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("sys.exit(7)", 7, id="exit-code"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 137, id="signal"),
        pytest.param("pass", 0, id="return"),
    ],
)
def test_pid_1_ends_as_its_child_did_once_it_was_told_to_end(body: str, code: int) -> None:
    told = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.kill(1, signal.SIGTERM)\n"
    assert supervised(told + body).returncode == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_of_pid_1_reaches_its_child(name: str) -> None:
    body = f"""
def seen(number, _):
    print("seen", number, flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(1, signal.SIGTERM)
    sys.exit(5)
signal.signal(signal.{name}, seen)
os.kill(1, signal.{name})
while True:
    signal.pause()
"""
    done = supervised(body)
    assert done.stdout == f"seen {int(signal.Signals[name])}\n"
    assert done.returncode == 5


def test_pid_1_that_is_told_to_end_while_no_driver_runs_starts_none() -> None:
    body = """
print("started", flush=True)
if os.fork() == 0:
    while os.getppid() != 1:
        pass
    os.kill(1, signal.SIGTERM)
    os._exit(0)
os._exit(3)
"""
    done = supervised(body)
    assert (done.stdout, done.returncode) == ("started\n", 3)


def test_pid_1_that_is_told_to_end_just_before_it_starts_a_driver_starts_none(
    tmp_path: Path,
) -> None:
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)\n        if told:"
    environment = changed_environment(
        tmp_path, module="csi.init", old=block, new=f"os.kill(1, signal.SIGTERM); {block}"
    )
    body = 'print("started", flush=True)\nsignal.pause()'
    done = supervised(body, environment)
    assert (done.stdout, done.returncode) == ("", 0)
