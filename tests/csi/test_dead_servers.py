"""A volume whose server has died has another one as soon as the kubelet publishes it again."""

import errno
import os
from pathlib import Path

import pytest

from clipfs.layer.layout import Layout
from clipfs.mount.mountinfo import mounts_at
from csi.binds import MOST_MOUNTS
from csi.health import SERVER_DIED
from csi.watch import VolumeWatch
from tests.csi.conftest import Lazy, Start
from tests.support import images
from tests.support.driver import Driver, failure, mounts_below, servers
from tests.support.machine import needs_fuse
from tests.support.node import alive, kill
from tests.support.registry import RegistryServer
from tests.support.reports import Heard
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = needs_fuse

UID = {"csi.storage.k8s.io/pod.uid": "u"}


def kill_server(tmp_path: Path) -> None:
    (server,) = servers(tmp_path / "root")
    kill(server)


def read_error(path: Path) -> int:
    with pytest.raises(OSError, match="not connected") as caught:
        path.read_bytes()
    assert caught.value.errno is not None
    return caught.value.errno


def test_it_reads_again_and_goes_without_a_trace(
    lazy: Lazy, image: str, layout_data: bytes, tmp_path: Path
) -> None:
    for _ in range(2):
        kill_server(tmp_path)
        assert read_error(lazy.target / "data") == errno.ENOTCONN
        assert lazy.driver.publish("pod", image) == lazy.target
        assert (lazy.target / "data").read_bytes() == layout_data
    (server,) = servers(tmp_path / "root")
    lazy.driver.unpublish("pod")
    assert mounts_below(tmp_path) == []
    assert not lazy.target.exists()
    wait_for(lambda: not alive(server))
    assert list((tmp_path / "root/run").rglob("*.json")) == []


def test_dead_mounts_do_not_pile_up_where_servers_go_on_dying(
    lazy: Lazy, image: str, layout_data: bytes, tmp_path: Path
) -> None:
    for _ in range(MOST_MOUNTS + 1):
        kill_server(tmp_path)
        lazy.driver.publish("pod", image)
        assert (lazy.target / "data").read_bytes() == layout_data
        assert len(mounts_at(lazy.target)) <= MOST_MOUNTS
    lazy.driver.unpublish("pod")
    assert mounts_below(tmp_path) == []


def test_a_driver_that_was_started_since_does_it_too(
    start: Start, image: str, tmp_path: Path
) -> None:
    first = start()
    target = first.publish("pod", image)
    first.process.kill()
    first.process.wait(20)
    kill_server(tmp_path)
    second = start()
    assert read_error(target / "hello") == errno.ENOTCONN
    second.publish("pod", image)
    assert (target / "hello").read_text() == "world\n"


def test_it_shows_what_it_showed_though_its_tag_has_moved(
    driver: Driver, layout: Path, registry: RegistryServer, tmp_path: Path
) -> None:
    image = images.push(layout, registry.address, "moving:1")
    (tmp_path / "1").mkdir()
    (tmp_path / "1/hello").write_text("other\n")
    images.write_layout(tmp_path / "oci", [images.layer(tmp_path / "1", tmp_path / "1.tar")])
    always = {"pullPolicy": "Always"}
    target = driver.publish("pod", image, attributes=always)
    images.push(tmp_path / "oci", registry.address, "moving:1")
    kill_server(tmp_path)
    driver.publish("pod", image, attributes=always)
    assert (target / "hello").read_text() == "world\n"
    assert (driver.publish("new", image, attributes=always) / "hello").read_text() == "other\n"


def test_it_needs_no_image_on_its_node_though_a_new_volume_with_never_would(
    lazy: Lazy, image: str, layout_data: bytes, tmp_path: Path
) -> None:
    never = {"pullPolicy": "Never"}
    target = lazy.driver.publish("other", image, attributes=never)
    kill_server(tmp_path)
    assert failure(lambda: lazy.driver.publish("new", image, attributes=never))[0] == "NOT_FOUND"
    lazy.driver.publish("other", image, attributes=never)
    assert (target / "data").read_bytes() == layout_data


def test_it_stays_dead_rather_than_empty_where_its_pod_may_not_have_the_image_any_more(
    driver: Driver, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    image = f"{scripted.address}/app:1"
    target = driver.publish("pod", image)
    kill_server(tmp_path)
    scripted.refuse["manifests"] = 403
    revoked = {"username": "user", "password": "revoked"}
    assert failure(lambda: driver.publish("pod", image, revoked))[0] == "PERMISSION_DENIED"
    assert read_error(target / "hello") == errno.ENOTCONN
    scripted.refuse.clear()
    driver.publish("pod", image)
    assert (target / "hello").read_text() == "world\n"


def test_one_volume_that_reads_again_does_not_make_the_others_of_its_image_well(
    driver: Driver, image: str, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        driver.publish(name, image, attributes=UID)
    heard = Heard()
    watch = VolumeWatch(Layout(tmp_path / "root"), heard)
    kill_server(tmp_path)
    watch.look()
    assert sorted(heard.since()) == [f"default/{n}: {image}: {SERVER_DIED}" for n in ("one", "two")]
    driver.publish("two", image, attributes=UID)
    watch.look()
    assert heard.since() == ["default/two: well"]
    driver.publish("one", image, attributes=UID)
    watch.look()
    assert heard.since() == ["default/one: well"]
    assert len(servers(tmp_path / "root")) == 1
    assert os.listdir(driver.target("one")) == os.listdir(driver.target("two"))
