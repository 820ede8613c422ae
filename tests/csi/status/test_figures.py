"""What a node's own records say of an image that a driver has mounted."""

import json
import urllib.request
from pathlib import Path

from clipfs.layer.layout import Layout
from csi.status.figures import NodeFigures
from tests.csi.conftest import Start
from tests.support.driver import Driver
from tests.support.machine import needs_fuse

pytestmark = needs_fuse


def digest_of(image: str) -> str:
    """As the registry says it."""
    host, _, name = image.partition("/")
    path, _, tag = name.partition(":")
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(f"http://{host}/v2/{path}/manifests/{tag}", headers=accept)
    with urllib.request.urlopen(request) as answer:
        assert json.loads(answer.read())["layers"]
        return str(answer.headers["Docker-Content-Digest"])


def test_a_server_s_mount_counts_what_is_read(
    driver: Driver, image: str, blob_bytes: int, layout_data: bytes, tmp_path: Path
) -> None:
    figures, digest = NodeFigures(Layout(tmp_path / "root")), digest_of(image)
    assert figures(digest) is None, "it is not mounted yet"
    target = driver.publish("pod", image)
    before = figures(digest)
    assert before is not None
    assert (before.front, before.layers, before.complete) == ("fuse", 1, 1)
    assert before.bytes_by_tier["registry"] == blob_bytes, "what made the mount has moved"
    assert (target / "data").read_bytes() == layout_data
    after = figures(digest)
    assert after is not None
    read = after.bytes_by_tier["disk"] - before.bytes_by_tier["disk"]
    assert read >= len(layout_data)
    driver.unpublish("pod")
    assert figures(digest) is None


def test_where_the_kernel_serves_alone_what_made_the_mount_is_all_that_is_counted(
    start: Start, image: str, blob_bytes: int, tmp_path: Path
) -> None:
    start("--front", "erofs").publish("pod", image)
    figures, digest = NodeFigures(Layout(tmp_path / "root")), digest_of(image)
    mounted = figures(digest)
    assert mounted is not None
    assert (mounted.front, mounted.complete) == ("erofs", 1)
    assert mounted.bytes_by_tier["registry"] == blob_bytes
