"""/healthz and /readyz of a real driver, while the kubelet comes to know it and forgets it."""

import subprocess
from pathlib import Path

from tests.csi.conftest import Start
from tests.csi.test_sockets import notify, registration
from tests.support.driver import Driver
from tests.support.machine import CLIP_CSI, needs_fuse
from tests.support.scraped import METRICS, metrics_address, page
from tests.support.wait import wait_for

pytestmark = needs_fuse


def ready(driver: Driver) -> tuple[int, str]:
    return page(metrics_address(driver), "/readyz")


def test_it_is_ready_once_the_kubelet_has_registered_it(start: Start, tmp_path: Path) -> None:
    driver = start(*METRICS)
    path = registration(tmp_path / "home/reg")
    wait_for(path.exists)
    assert ready(driver) == (503, "the kubelet has not registered the driver yet\n")
    notify(path, plugin_registered=True)
    assert ready(driver) == (200, "ok\n")
    notify(path, plugin_registered=False, error="name is\ntaken")
    assert ready(driver) == (503, "the kubelet refuses the driver: name is taken\n")
    assert page(metrics_address(driver), "/healthz") == (200, "ok\n")
    notify(path, plugin_registered=True)
    assert ready(driver) == (200, "ok\n")


def test_it_is_not_ready_while_something_else_stands_where_its_socket_was(
    start: Start, tmp_path: Path
) -> None:
    driver = start(*METRICS)
    wait_for(registration(tmp_path / "home/reg").exists)
    notify(registration(tmp_path / "home/reg"), plugin_registered=True)
    socket = tmp_path / "home/csi.sock"
    socket.unlink()
    socket.mkdir()
    assert ready(driver) == (503, f"the CSI socket {socket} is gone\n")
    socket.rmdir()
    wait_for(lambda: ready(driver) == (200, "ok\n"))  # it was made again


def test_a_driver_that_does_not_register_is_ready_with_its_socket(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        CLIP_CSI, "node", "--endpoint", f"unix://{tmp_path}/csi/csi.sock", "--node-id", "n",
        "--kubelet-root", str(tmp_path / "kubelet"), "--root", str(tmp_path / "root"),
        "--log-format", "json", *METRICS,
    ]  # fmt: skip
    with log.open("w") as err, subprocess.Popen(command, stderr=err) as process:
        try:
            wait_for((tmp_path / "csi/csi.sock").exists)
            address = next(line for line in log.read_text().splitlines() if "address" in line)
            port = address.partition("127.0.0.1:")[2].partition('"')[0]
            wait_for(lambda: page(f"127.0.0.1:{port}", "/readyz") == (200, "ok\n"))
        finally:
            process.terminate()
