"""A pod that ends once it has begun, as that of `manifests/examples/index-after-build.yaml`."""

from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.content import run_content_server
from tests.support.driver import nothing_left
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.two_nodes import nodes_of, options_of_server, stored

pytestmark = needs_fuse


@pytest.mark.parametrize("front", ["fuse", "auto"])
def test_what_it_brought_is_stored_behind_it_and_another_node_downloads_nothing(
    front: str, start: Start, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    with run_content_server(tmp_path / "cache") as cache:
        shared = options_of_server(cache, tmp_path)
        driver = start(*shared, "--front", front)
        driver.publish("pod", image)
        driver.unpublish("pod")
        stored(Node(tmp_path / "root"))
        nothing_left(driver, tmp_path / "root", "pod")
        plain = ["--plain-http", registry.address]
        with nodes_of(tmp_path, "B", [*shared, *plain]) as (other,):
            other.mount(image, tmp_path / "mount")
            assert (tmp_path / "mount/hello").read_text() == "world\n"
            moved = other.json("stats")
        assert moved["registry"]["bytes"] == 0
        assert moved["content_cache"]["bytes"] > 0
