"""A pod that ends once it has begun, as that of `manifests/examples/index-after-build.yaml`."""

from pathlib import Path

import pytest

from tests.csi.conftest import Start
from tests.support.content import ContentServer, run_content_server
from tests.support.driver import nothing_left
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.two_nodes import nodes_of, options_of_server
from tests.support.wait import wait_for

pytestmark = needs_fuse

WHOLE = ("000000", "*.v1.toc", "*.v1.origin.*")
"""The one layer's page, its index, and that its registry has delivered it."""


def has_it_whole(cache: ContentServer) -> bool:
    return all(any(cache.objects.rglob(name)) for name in WHOLE)


@pytest.mark.parametrize("front", ["fuse", "auto"])
def test_what_it_brought_is_stored_behind_it_and_another_node_downloads_nothing(
    front: str, start: Start, image: str, registry: RegistryServer, tmp_path: Path
) -> None:
    with run_content_server(tmp_path / "cache") as cache:
        shared = options_of_server(cache, tmp_path)
        driver = start(*shared, "--front", front)
        driver.publish("pod", image)
        driver.unpublish("pod")
        wait_for(lambda: has_it_whole(cache), within_s=60)
        nothing_left(driver, tmp_path / "root", "pod")
        plain = ["--plain-http", registry.address]
        with nodes_of(tmp_path, "B", [*shared, *plain]) as (other,):
            other.mount(image, tmp_path / "mount")
            assert (tmp_path / "mount/hello").read_text() == "world\n"
            moved = other.json("stats")
        assert moved["registry"]["bytes"] == 0
        assert moved["content_cache"]["bytes"] > 0
