"""The driver as the kubelet sees it: real processes, real mounts, a real registry."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.csi.conftest import Lazy, Start
from tests.support.driver import (
    Driver,
    M,
    cleaned_up,
    failure,
    mounts_below,
    run_driver,
    servers,
    umount,
)
from tests.support.machine import needs_fuse
from tests.support.node import alive, kill
from tests.support.registry import RegistryServer
from tests.support.wait import wait_for

pytestmark = needs_fuse


def options_of(target: Path) -> set[str]:
    """What holds for the mount at target alone, whatever it shows."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (found,) = [fields[5] for line in lines if (fields := line.split())[4] == str(target)]
    return set(found.split(","))


def test_a_published_volume_shows_the_image_and_goes_without_a_trace(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.publish("pod", image)
    assert (target / "hello").read_text() == "world\n"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    assert {"ro", "nosuid", "nodev"} <= options_of(target)
    (server,) = servers(tmp_path / "root")
    driver.unpublish("pod")
    driver.unpublish("pod")
    assert not target.exists()
    assert target.parent.exists()
    assert mounts_below(tmp_path) == []
    wait_for(lambda: not alive(server))
    assert list((tmp_path / "root/run").rglob("*.json")) == []


def test_pods_of_one_image_share_its_server_until_the_last_is_gone(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    targets = [driver.publish(name, image) for name in ("one", "two")]
    (server,) = servers(tmp_path / "root")
    driver.unpublish("one")
    assert (targets[1] / "hello").read_text() == "world\n"
    assert alive(server)
    driver.unpublish("two")
    wait_for(lambda: not alive(server))


def test_identical_calls_at_once_make_one_volume(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        targets = set(pool.map(lambda _: driver.publish("same", image), range(8)))
    assert len(targets) == 1
    assert len(servers(tmp_path / "root")) == 1
    assert len(mounts_below(targets.pop().parent)) == 1


def test_publish_and_unpublish_of_many_pods_at_once_leave_nothing(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    def live(number: int) -> None:
        for _ in range(2):
            target = driver.publish(f"pod-{number}", image)
            assert (target / "hello").read_text() == "world\n"
            driver.unpublish(f"pod-{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(live, range(6)))
    assert mounts_below(tmp_path) == []
    wait_for(lambda: servers(tmp_path / "root") == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_volumes_outlive_the_driver_and_the_next_one_adopts_them(
    number: signal.Signals, start: Start, image: str, tmp_path: Path
) -> None:
    first = start()
    target = first.publish("pod", image)
    with (target / "data").open("rb") as held:
        first.process.send_signal(number)
        first.process.wait(20)
        assert (tmp_path / "home/csi.sock").exists() == (number == signal.SIGKILL)
        assert len(held.read()) == 3 << 20
        assert (target / "hello").read_text() == "world\n"
    second = start()
    assert second.publish("pod", image) == target
    assert second.publish("other", image) != target
    assert len(servers(tmp_path / "root")) == 1
    second.unpublish("pod")
    second.unpublish("other")
    assert mounts_below(tmp_path) == []
    wait_for(lambda: servers(tmp_path / "root") == [])


def test_the_next_driver_cleans_up_what_is_half_done(
    start: Start, image: str, tmp_path: Path
) -> None:
    first = start()
    target = first.publish("pod", image)
    first.process.kill()
    first.process.wait(20)
    umount(target)
    start()
    assert mounts_below(tmp_path) == []
    assert list((tmp_path / "root/run/volumes").iterdir()) == []


def test_an_image_whose_server_died_is_served_again_at_the_next_publish(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    driver.publish("one", image)
    kill(servers(tmp_path / "root")[0])
    assert (driver.publish("two", image) / "hello").read_text() == "world\n"
    driver.unpublish("one")
    driver.unpublish("two")
    assert mounts_below(tmp_path) == []


@pytest.fixture(scope="module")
def bare(
    registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Driver, Path]]:
    """A driver that has published nothing, and the folder that all of it is in."""
    home = tmp_path_factory.mktemp("bare")
    hosts = ["--plain-http", registry.address, "--plain-http", "127.0.0.1:1"]
    with cleaned_up(home), run_driver(home / "home", hosts, root=home / "root") as driver:
        yield driver, home


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        pytest.param({"image": ""}, "INVALID_ARGUMENT", "image is missing", id="no-image"),
        pytest.param({"image": "UP"}, "INVALID_ARGUMENT", "UP", id="reference"),
        pytest.param({"imag": "x"}, "INVALID_ARGUMENT", "image, pullPolicy, platform, front",
                     id="unknown"),
        pytest.param({"front": "nfs"}, "INVALID_ARGUMENT", "front", id="front"),
        pytest.param({"pullPolicy": "No"}, "INVALID_ARGUMENT", "IfNotPresent", id="policy"),
        pytest.param({"platform": "linux"}, "INVALID_ARGUMENT", "OS/ARCH", id="platform"),
        pytest.param({"image": "REG/driver:2"}, "NOT_FOUND", "driver:2", id="no-tag"),
        pytest.param({"image": "REG/none:1"}, "NOT_FOUND", "none:1", id="no-repository"),
        pytest.param({"image": "127.0.0.1:1/x:1"}, "UNAVAILABLE", "127.0.0.1:1", id="no-registry"),
        pytest.param({"image": "REG/driver:1", "pullPolicy": "Never"}, "NOT_FOUND",
                     "not on this node", id="never"),
    ],
)  # fmt: skip
def test_a_publish_that_fails_says_why_and_leaves_nothing(
    attributes: dict[str, str], code: str, words: str, bare: tuple[Driver, Path], image: str,
    registry: RegistryServer,
) -> None:  # fmt: skip
    driver, home = bare
    given = {key: value.replace("REG", registry.address) for key, value in attributes.items()}
    name = given.pop("image", image)
    found, details = failure(lambda: driver.publish("pod", name, attributes=given))
    assert found == code
    assert words in details
    assert not driver.target("pod").exists()
    assert mounts_below(home) == []
    assert list((home / "root/run").rglob("*.json")) == []


def test_a_volume_of_a_target_is_not_replaced_by_another(driver: Driver, image: str) -> None:
    target = driver.publish("pod", image)
    assert driver.publish("pod", image) == target
    code, details = failure(
        lambda: driver.publish("pod", image, attributes={"pullPolicy": "Always"})
    )
    assert code == "ALREADY_EXISTS"
    assert str(target) in details


def test_never_is_enough_once_the_image_is_on_the_node(driver: Driver, image: str) -> None:
    driver.publish("one", image)
    target = driver.publish("two", image, attributes={"pullPolicy": "Never"})
    assert (target / "hello").read_text() == "world\n"


def test_a_target_outside_the_kubelets_folder_is_refused(driver: Driver, tmp_path: Path) -> None:
    for path in (str(tmp_path / "elsewhere"), f"{driver.kubelet_root}/../elsewhere", ""):
        request = M["Unpublish"](volume_id="v", target_path=path)
        code, _ = failure(lambda request=request: driver.call("Node/NodeUnpublishVolume", request))  # type: ignore[misc]
        assert code == "INVALID_ARGUMENT"


def test_stats_come_from_the_index_even_if_the_server_is_dead(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    target = driver.publish("pod", image)
    os.kill(servers(tmp_path / "root")[0], signal.SIGKILL)
    request = M["Stats"](volume_id="csi-pod", volume_path=str(target))
    bytes_, inodes = driver.call("Node/NodeGetVolumeStats", request, "Usages").usage
    assert (bytes_.total, bytes_.used, bytes_.available, bytes_.unit) == (3145740, 3145740, 0, 1)
    assert (inodes.total, inodes.unit) == (5, 2)
    gone = M["Stats"](volume_id="csi-pod", volume_path=str(target) + "x")
    assert failure(lambda: driver.call("Node/NodeGetVolumeStats", gone))[0] == "NOT_FOUND"


def test_identity_and_node_say_who_they_are(driver: Driver) -> None:
    info = driver.call("Identity/GetPluginInfo", M["Empty"](), "Info")
    assert (info.name, info.vendor_version) == ("csi.clipfs.dev", "0.1.0")
    assert driver.call("Node/NodeGetInfo", M["Empty"](), "NodeInfo").node_id == "node-a"


def test_never_is_enough_for_an_image_that_another_pod_reads_lazily(
    lazy: Lazy, image: str, layout_data: bytes
) -> None:
    target = lazy.driver.publish("other", image, attributes={"pullPolicy": "Never"})
    assert (target / "data").read_bytes() == layout_data
    lazy.driver.unpublish("other")
    lazy.driver.unpublish("pod")
    code, details = failure(
        lambda: lazy.driver.publish("third", f"{image}-none", attributes={"pullPolicy": "Never"})
    )
    assert (code, "no such image" in details) == ("NOT_FOUND", True)


def test_never_is_not_enough_for_a_tree_whose_server_died_before_the_layers_were_whole(
    lazy: Lazy, image: str, tmp_path: Path
) -> None:
    (server,) = servers(tmp_path / "root")
    kill(server)
    never = {"pullPolicy": "Never"}
    code, details = failure(lambda: lazy.driver.publish("other", image, attributes=never))
    assert (code, "is not on this node" in details) == ("NOT_FOUND", True)
