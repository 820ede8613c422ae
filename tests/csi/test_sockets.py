"""The driver's sockets: how they come, go and come again; and the kubelet that finds them."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi.server import Endpoint, fresh_name
from tests.csi.conftest import Start
from tests.support.driver import (
    Driver,
    M,
    channel_to,
    failure,
    nothing_left,
    run_driver,
    servers,
)
from tests.support.machine import CLIP_CSI, needs_fuse
from tests.support.processes import command_line
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = needs_fuse


def registration(folder: Path, driver_name: str = "csi.clipfs.dev") -> Path:
    return folder / f"{driver_name}-reg.sock"


def ask(path: Path, method: str, request: Any, answer: str) -> Any:
    """One call on a socket as it is now."""
    with channel_to(path) as channel:
        return channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=M[answer].FromString,
        )(request, timeout=20)


def info(path: Path) -> Any:
    return ask(path, "/pluginregistration.Registration/GetInfo", M["Empty"](), "PluginInfo")


def notify(path: Path, **status: object) -> None:
    method = "/pluginregistration.Registration/NotifyRegistrationStatus"
    ask(path, method, M["Status"](**status), "Empty")


def node_id(path: Path) -> str:
    found: str = ask(path, "/csi.v1.Node/NodeGetInfo", M["Empty"](), "NodeInfo").node_id
    return found


def test_the_driver_registers_itself_with_the_kubelet(driver: Driver, tmp_path: Path) -> None:
    folder = tmp_path / "home/reg"
    found = info(registration(folder))
    assert (found.type, found.name) == ("CSIPlugin", "csi.clipfs.dev")
    assert found.endpoint == str(tmp_path / "home/csi.sock")
    assert [version.split(".")[0] for version in found.supported_versions] == ["1"]
    notify(registration(folder), plugin_registered=True)
    assert os.listdir(folder) == ["csi.clipfs.dev-reg.sock"]


def test_a_refusal_of_the_kubelet_is_logged_and_the_next_registration_works(
    driver: Driver, tmp_path: Path
) -> None:
    path = registration(tmp_path / "home/reg")
    notify(path, plugin_registered=False, error="name is taken")
    (line,) = [one for one in driver.lines() if one["event"] == "the kubelet refuses the driver"]
    assert (line["level"], line["error"]) == ("error", "name is taken")
    notify(path, plugin_registered=True)
    assert info(path).name == "csi.clipfs.dev"


def test_the_driver_registers_again_in_a_folder_that_was_made_again(
    driver: Driver, tmp_path: Path
) -> None:
    folder = tmp_path / "home/reg"
    shutil.rmtree(folder)
    wait_for(registration(folder).exists)
    assert info(registration(folder)).name == "csi.clipfs.dev"


def test_a_socket_that_was_removed_comes_back_and_calls_in_flight_on_the_old_one_end_well(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(driver.publish, "pod", f"{scripted.address}/app:1")
        assert scripted.at_gate.wait(60)
        (tmp_path / "home/csi.sock").unlink()
        wait_for((tmp_path / "home/csi.sock").exists)
        assert node_id(tmp_path / "home/csi.sock") == "node-a"
        scripted.open_gate()
        assert (call.result() / "hello").read_text() == "world\n"


def test_only_root_may_call(driver: Driver, tmp_path: Path) -> None:
    for path in (tmp_path / "home/csi.sock", registration(tmp_path / "home/reg")):
        assert path.stat().st_mode & 0o077 == 0


def test_sockets_that_a_killed_driver_left_are_replaced(start: Start, tmp_path: Path) -> None:
    paths = [tmp_path / "home/csi.sock", registration(tmp_path / "home/reg")]
    first = start()
    first.process.kill()
    first.process.wait()
    stale = [path.stat().st_ino for path in paths]
    half_made = fresh_name(paths[0])
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(half_made))
    second = start()
    wait_for(lambda: all(path.stat().st_ino != old for path, old in zip(paths, stale, strict=True)))
    assert node_id(paths[0]) == "node-a"
    assert not half_made.exists()
    second.process.terminate()
    assert second.process.wait(20) == 0
    assert not any(path.exists() for path in paths)


def test_a_file_where_the_socket_is_wanted_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    done = subprocess.run(
        [CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/token", "--node-id", "n",
         "--kubelet-root", str(tmp_path / "kubelet"), "--root", str(tmp_path / "root")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{tmp_path}/token is there and is no socket" in done.stderr
    assert (tmp_path / "token").read_text() == "secret\n"


def test_sigterm_answers_who_waits_for_an_image_takes_no_other_and_removes_the_sockets(
    start: Start, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    first = start()
    name = f"{scripted.address}/app:1"
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(failure, lambda: first.publish("pod", name))
        assert scripted.at_gate.wait(60)
        assert mount_commands(name) != []
        first.process.terminate()
        code, details = call.result()
        assert (code, details.startswith(f"{name}: ")) == ("ABORTED", True), details
        assert "the driver ends" in details
        wait_for(lambda: not (tmp_path / "home/csi.sock").exists())
        with pytest.raises(grpc.RpcError):
            first.publish("late", name)
    assert first.process.wait(20) == 0
    assert not registration(tmp_path / "home/reg").exists()
    assert mount_commands(name) == []
    second = start()
    nothing_left(second, tmp_path / "root", "pod")
    scripted.open_gate()
    assert (second.publish("pod", name) / "hello").read_text() == "world\n"
    second.unpublish("pod")
    nothing_left(second, tmp_path / "root", "pod")


def test_a_driver_killed_in_the_middle_of_a_publish_leaves_nothing_to_the_next(
    start: Start, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    first = start()
    name = f"{scripted.address}/app:1"
    scripted.close_gate()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(first.publish, "pod", name)
        assert scripted.at_gate.wait(60)
        assert mount_commands(name) != []
        first.process.kill()
        first.process.wait()
        with pytest.raises(grpc.RpcError):
            call.result()
    wait_for(lambda: not mount_commands(name))
    second = start()
    nothing_left(second, tmp_path / "root", "pod")
    scripted.open_gate()
    assert (second.publish("pod", name) / "hello").read_text() == "world\n"
    assert len(servers(tmp_path / "root")) == 1


def mount_commands(name: str) -> list[bytes]:
    """The command lines, whosever children they are, that mount the image of this name: of the
    command, its fork server and its workers."""
    words = [b"mount", name.rpartition(":")[0].encode()]
    lines = [command_line(path) for path in Path("/proc").glob("[0-9]*")]
    return [line for line in lines if all(word in line for word in words)]


def test_a_second_driver_on_the_same_root_is_refused_and_harms_nothing(
    driver: Driver, other_image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.close_gate()
    driver.publish("here", other_image)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(driver.publish, "pod", f"{scripted.address}/app:1")
        assert scripted.at_gate.wait(60)
        second = subprocess.run(
            [CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/home/csi.sock", "--node-id", "b",
             "--kubelet-root", str(tmp_path / "home/kubelet"), "--root", str(tmp_path / "root")],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert second.returncode == 1
        assert f"another clip-csi runs on --root {tmp_path}/root" in second.stderr
        scripted.open_gate()
        call.result()
    assert node_id(tmp_path / "home/csi.sock") == "node-a"
    assert (driver.target("here") / "hello").read_text() == "other\n"


def test_a_driver_does_not_remove_the_socket_of_one_that_took_its_place(
    driver: Driver, tmp_path: Path
) -> None:
    with run_driver(tmp_path / "home", ["--node-id", "node-b"], root=tmp_path / "other"):
        wait_for(lambda: node_id(tmp_path / "home/csi.sock") == "node-b")
        driver.process.send_signal(signal.SIGTERM)
        assert driver.process.wait(20) == 0
        assert node_id(tmp_path / "home/csi.sock") == "node-b"


@pytest.mark.parametrize(
    ("folder", "goes"), [("csi.clipfs.dev", True), ("plugins", False)], ids=["its own", "another's"]
)
def test_sigterm_removes_the_folder_of_the_socket_if_it_is_the_drivers_own(
    folder: str, goes: bool, tmp_path: Path
) -> None:
    endpoint = tmp_path / folder / "csi.sock"
    words = ("--node-id", "n", "--kubelet-root", str(tmp_path), "--root", str(tmp_path / "root"))
    with subprocess.Popen([CLIP_CSI, "node", "--endpoint", f"unix://{endpoint}", *words]) as driver:
        try:
            wait_for(endpoint.exists)
        finally:
            driver.terminate()
    assert driver.returncode == 0
    assert not endpoint.exists()
    assert endpoint.parent.exists() is not goes


def test_drivers_that_make_sockets_in_one_folder_at_once_do_not_take_each_others(
    tmp_path: Path,
) -> None:
    """One of them stands still between a socket's making and its renaming."""
    paths = [registration(tmp_path, name) for name in ("a.example", "b.example")]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(fresh_name(paths[0])))
        made = fresh_name(paths[0]).stat().st_ino
        endpoint = Endpoint(paths[1], lambda _: None, threads=1)
        try:
            fresh_name(paths[0]).rename(paths[0])
            assert paths[0].stat().st_ino == made
        finally:
            endpoint.close()


class Slow:
    """Its call ends once `path`, renewed, is gone; it notes whether `closed` was set before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.begun, self.renewed, self.closed = (threading.Event() for _ in range(3))
        self.closed_first: bool | None = None

    def serve(self, server: grpc.Server) -> None:
        methods = {"Call": grpc.unary_unary_rpc_method_handler(self.answer)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Slow", methods)])

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.begun.set()
        assert self.renewed.wait(60)
        wait_for(lambda: not self._path.exists())  # the first thing that an end does
        self.closed_first = self.closed.wait(0.5)
        return b"done"


def test_calls_on_a_socket_that_was_renewed_are_finished_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    slow = Slow(path)
    endpoint = Endpoint(path, slow.serve, threads=2)
    with channel_to(path) as channel:
        call = channel.unary_unary("/Slow/Call", bytes, bytes).future(b"", timeout=60)
        assert slow.begun.wait(60)
        path.rename(tmp_path / "elsewhere")
        endpoint.renew()
        slow.renewed.set()
        endpoint.close()
        slow.closed.set()
        assert call.result(60) == b"done"
    assert slow.closed_first is False
