"""Which volumes share a mount, and which places on the node may hold one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.csi.conftest import Start
from tests.support import images
from tests.support.driver import (
    Driver,
    M,
    failure,
    mounts_below,
    nothing_left,
    servers,
)
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry

pytestmark = needs_fuse


def test_one_image_of_one_repository_is_one_mount_by_tag_and_by_digest(
    driver: Driver, image: str, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    names = [
        image,
        f"{image}@{scripted.digest}",
        f"{image.rpartition(':')[0]}@{scripted.digest}",
        f"{scripted.address}/another/name:tag",
    ]
    for pod, name in enumerate(names):
        assert (
            driver.publish(str(pod), name, attributes={"platform": "linux/amd64"}) / "hello"
        ).exists()
    assert len(servers(tmp_path / "root")) == 2
    for pod in range(len(names)):
        assert len(servers(tmp_path / "root")) == 2
        driver.unpublish(str(pod))
    nothing_left(driver, tmp_path / "root", *map(str, range(len(names))))


def test_each_image_has_a_server_of_its_own_and_goes_with_its_last_volume(
    driver: Driver, registry: RegistryServer, tmp_path: Path
) -> None:
    names = {word: push_word(word, registry, tmp_path / word) for word in ("a", "b", "c", "d")}
    pods = [(f"{word}-{number}", word) for number in range(2) for word in names]
    with ThreadPoolExecutor(len(pods)) as pool:
        shown = pool.map(lambda pod: driver.publish(pod[0], names[pod[1]]) / "word", pods)
        assert [path.read_text() for path in shown] == [word for _, word in pods]
        assert len(servers(tmp_path / "root")) == len(names)
        list(pool.map(lambda pod: driver.unpublish(pod[0]), pods[: len(names)]))
        assert len(servers(tmp_path / "root")) == len(names)
        list(pool.map(lambda pod: driver.unpublish(pod[0]), pods[len(names) :]))
    nothing_left(driver, tmp_path / "root", *(pod for pod, _ in pods))


def push_word(word: str, registry: RegistryServer, home: Path) -> str:
    """An image whose one file holds word."""
    (home / "1").mkdir(parents=True)
    (home / "1/word").write_text(word)
    images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
    return images.push(home / "oci", registry.address, f"word-{word}:1")


def test_platforms_of_one_tag_are_images_of_their_own_unless_they_are_the_same(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    same = (scripted.digest, scripted.size)
    other = scripted.add_image("another one")
    scripted.add_index("1", {"amd64": same, "s390x": same, "arm64": other})
    name = f"{scripted.address}/app:1"
    for count, architecture in ((1, "amd64"), (1, "s390x"), (2, "arm64")):
        asked = {"platform": f"linux/{architecture}"}
        shown = driver.publish(architecture, name, attributes=asked)
        assert (shown / "hello").read_text() == "world\n"
        assert len(servers(tmp_path / "root")) == count
    for architecture in ("amd64", "arm64", "s390x"):
        driver.unpublish(architecture)
    nothing_left(driver, tmp_path / "root", "amd64", "arm64", "s390x")


def test_a_target_holds_one_volume_of_one_id(driver: Driver, image: str) -> None:
    driver.publish("pod", image)
    request = driver.publish_request("pod", image)
    request.volume_id = "csi-other"
    assert failure(lambda: driver.call("Node/NodePublishVolume", request))[0] == "ALREADY_EXISTS"
    stats = M["Stats"](volume_id="csi-other", volume_path=str(driver.target("pod")))
    assert failure(lambda: driver.call("Node/NodeGetVolumeStats", stats))[0] == "NOT_FOUND"


def test_a_kubelet_folder_behind_a_link_works_as_any_other(
    start: Start, image: str, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "home/kubelet").symlink_to(tmp_path / "disk")
    driver = start()
    for _ in range(2):
        assert (driver.publish("pod", image) / "hello").read_text() == "world\n"
    assert len(mounts_below(tmp_path / "disk")) == 1
    assert driver.usage("pod") == [3145740, 5]
    driver.unpublish("pod")
    nothing_left(driver, tmp_path / "root", "pod")
    assert mounts_below(tmp_path / "disk") == []


def test_a_link_that_leads_out_of_the_kubelets_folder_is_refused(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    driver.kubelet_root.mkdir()
    (driver.kubelet_root / "pods").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(grpc.RpcError) as caught:
        driver.publish("pod", image)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mounts_below(tmp_path / "elsewhere") == []
