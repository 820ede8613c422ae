"""Whose credentials open what, and that nobody sees them: not the node's users, not its logs."""

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.driver import Driver, failure, nothing_left, servers
from tests.support.machine import needs_fuse
from tests.support.processes import descendants, short_name
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = needs_fuse

PASSWORD = "hush-hush-word"
ENCODED = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
PAIR = {"username": "user", "password": PASSWORD}
SECRETS = (PASSWORD.encode(), ENCODED.encode().rstrip(b"="))


@pytest.fixture
def private(scripted: ScriptedRegistry) -> ScriptedRegistry:
    scripted.wants = f"user:{PASSWORD}"
    return scripted


def docker_config(registry: str) -> str:
    return json.dumps({"auths": {registry: {"auth": ENCODED}}})


def test_each_pod_needs_credentials_of_its_own_whatever_is_on_the_node(
    driver: Driver, private: ScriptedRegistry, tmp_path: Path
) -> None:
    name = f"{private.address}/own:1"
    code, details = failure(lambda: driver.publish("none", name))
    assert (code, name in details) == ("UNAUTHENTICATED", True)
    wrong = {"username": "user", "password": "wrong"}
    assert failure(lambda: driver.publish("wrong", name, wrong))[0] == "UNAUTHENTICATED"
    assert (driver.publish("pod", name, PAIR) / "hello").exists()
    assert failure(lambda: driver.publish("none", name))[0] == "UNAUTHENTICATED"
    assert failure(lambda: driver.publish("wrong", name, wrong))[0] == "UNAUTHENTICATED"
    never = failure(lambda: driver.publish("none", name, attributes={"pullPolicy": "Never"}))
    assert never[0] == "UNAUTHENTICATED", "cached is not authorised"
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "none", "wrong", "pod")


@pytest.mark.parametrize("form", ["pair", "docker-config"])
def test_a_secret_opens_the_registry_in_either_form(
    form: str, driver: Driver, private: ScriptedRegistry
) -> None:
    secrets = {".dockerconfigjson": docker_config(private.address)} if form != "pair" else PAIR
    assert (driver.publish("pod", f"{private.address}/own:1", secrets) / "hello").exists()


def test_credentials_for_another_registry_are_not_sent(
    driver: Driver, private: ScriptedRegistry
) -> None:
    secrets = {".dockerconfigjson": docker_config("127.0.0.1:1")}
    call = failure(lambda: driver.publish("pod", f"{private.address}/own:1", secrets))
    assert call[0] == "UNAUTHENTICATED"


def test_the_nodes_own_credentials_hold_where_a_pod_has_none(
    start: Start, private: ScriptedRegistry, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(docker_config(private.address))
    driver = start("--registry-config", str(tmp_path / "config.json"))
    name = f"{private.address}/own:1"
    assert (driver.publish("pod", name) / "hello").exists()
    wrong = {"username": "user", "password": "wrong"}
    assert failure(lambda: driver.publish("wrong", name, wrong))[0] == "UNAUTHENTICATED"


def test_credentials_are_in_no_argument_environment_file_or_log(
    driver: Driver, private: ScriptedRegistry, tmp_path: Path
) -> None:
    """Looked for while the mount command runs, and again while the server serves."""
    name = f"{private.address}/own:1"
    private.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(driver.publish, "pod", name, PAIR)
        assert private.at_gate.wait(60)
        running = descendants(driver.process.pid)
        assert "layer.worker" in map(short_name, running)
        for pid in [driver.process.pid, *running]:
            assert told(shown_by(pid)) == []
        assert told(files_below(tmp_path)) == []
        private.open_gate()
        call.result()
    failure(lambda: driver.publish("other", name, {"username": PASSWORD, "password": PASSWORD}))
    failure(lambda: driver.publish("junk", name, {"auth": PASSWORD}))
    failure(lambda: driver.publish("list", name, {".dockerconfigjson": f'["{PASSWORD}"]'}))
    (server,) = servers(tmp_path / "root")
    assert told(shown_by(server)) == []
    assert told(files_below(tmp_path)) == []
    assert (
        "Unauthenticated" in driver.log.read_text() or "UNAUTHENTICATED" in driver.log.read_text()
    )


def told(texts: Iterator[tuple[str, bytes]]) -> list[str]:
    """Where a secret shows."""
    return [where for where, text in texts if any(secret in text for secret in SECRETS)]


def shown_by(pid: int) -> Iterator[tuple[str, bytes]]:
    """What `ps` shows of a process, and more: its arguments and its environment."""
    for name in ("cmdline", "environ"):
        path = Path(f"/proc/{pid}/{name}")
        text = path.read_bytes()
        assert name != "cmdline" or text, "it has not ended"
        yield str(path), text


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of the test: the driver's root, its log, its sockets' folders; not the mounts."""
    for top, names, files in os.walk(folder):
        names[:] = [name for name in names if not os.path.ismount(f"{top}/{name}")]
        for name in files:
            path = Path(top, name)
            if path.is_file():
                yield str(path), path.read_bytes()
