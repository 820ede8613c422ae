"""One real image in every form that registries hold: both fronts show a reference's tree.

The reference is `umoci unpack` for gzip, and containerd's mount for what umoci does not read.
Wheels in five layers are in `test_real_image.py`, a tar by hand a row in `test_tar_table.py`.
"""

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.both_fronts import on_both_fronts
from tests.support.built_image import built_layers, push_as, write_layouts
from tests.support.containerd import Containerd, run_containerd
from tests.support.machine import needs_fuse
from tests.support.node import Node
from tests.support.registry import RegistryServer
from tests.support.said import Say
from tests.support.trees import compare

pytestmark = [
    needs_fuse,
    pytest.mark.timeout(900),  # Debian's packages are downloaded at a machine's first run
]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@dataclass(frozen=True, slots=True)
class Built:
    """The image's layouts by name, umoci's tree of it, and a registry to push it to.

    chunked  the image in zstd:chunked, pushed before all others: skopeo takes a blob that the
             registry has in whatever form
    """

    layouts: dict[str, Path]
    reference: Path
    registry: RegistryServer
    chunked: str

    def push(self, form: str) -> str:
        address = self.registry.address
        if form in self.layouts:
            return images.push(self.layouts[form], address, f"set-{form}:1")
        if form == "zstd-chunked":
            return self.chunked
        if form == "docker-schema-2":
            return push_as(self.layouts["gzip"], f"{address}/set-docker:1", "--format", "v2s2")
        form_of_child, media_type = {
            "oci-index": ("gzip", OCI_INDEX),
            "docker-list": ("docker-schema-2", DOCKER_LIST),
        }[form]
        return self._push_list(self.push(form_of_child), media_type)

    def _push_list(self, child: str, media_type: str) -> str:
        """A list of just that image, for linux/amd64, beside it in its repository."""
        name = child.partition("/")[2].partition(":")[0]
        place = f"http://{self.registry.address}/v2/{name}/manifests"
        accept = "application/vnd.oci.image.manifest.v1+json, "
        accept += "application/vnd.docker.distribution.manifest.v2+json"
        with urllib.request.urlopen(
            urllib.request.Request(f"{place}/1", headers={"Accept": accept})
        ) as answer:
            described = {
                "mediaType": answer.headers["Content-Type"],
                "digest": answer.headers["Docker-Content-Digest"],
                "size": len(answer.read()),
                "platform": {"os": "linux", "architecture": "amd64"},
            }
        body = {"schemaVersion": 2, "mediaType": media_type, "manifests": [described]}
        request = urllib.request.Request(
            f"{place}/list", json.dumps(body).encode(), {"Content-Type": media_type}, method="PUT"
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201
        return f"{self.registry.address}/{name}:list"

    def layers(self, reference: str) -> list[dict[str, Any]]:
        """The layers' descriptors, as the registry has them."""
        name, _, tag = reference.partition("/")[2].partition(":")
        accept = "application/vnd.oci.image.manifest.v1+json"
        url = f"http://{self.registry.address}/v2/{name}/manifests/{tag}"
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Accept": accept})
        ) as answer:
            found: list[dict[str, Any]] = json.load(answer)["layers"]
        return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Built:
    home = tmp_path_factory.mktemp("built")
    layouts = write_layouts(home, built_layers(home))
    with ThreadPoolExecutor() as beside:
        reference = beside.submit(images.unpack, layouts["gzip"], home / "bundle")
        chunked = push_as(layouts["plain"], f"{registry.address}/set-chunked:1",
                          "--dest-compress-format", "zstd:chunked")  # fmt: skip
    return Built(layouts, reference.result(), registry, chunked)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with run_containerd(tmp_path_factory.mktemp("containerd")) as found:
        yield found


OF_OVERLAY = (
    "b'': st_mtime_ns",
    "b'odd/raised': st_nlink is 3 and 2",
    "b'usr/lib/raised-here': st_nlink is 3 and 2",
)
"""What an overlay cannot show of an image: the time of a root that no layer has a member for, and
that one of an inode's names is hidden by an upper layer."""


def equal_on_both_fronts(
    reference: Path,
    image: str,
    node: Node,
    home: Path,
    say: Say,
    *,
    but: tuple[str, ...] = (),
) -> None:
    with on_both_fronts(node, image, home) as fronts:
        for front, place in fronts.items():
            result = compare(str(reference), str(place))
            say(f"{image.partition('/')[2]}, {front}: {result}")
            assert not [line for line in result.differences if not line.startswith(but)]
            assert len(result.differences) == len(but)
            assert result.entries > 1000


def test_the_image_holds_what_it_is_to_be_compared_for(built: Built) -> None:
    found = {path.name for path in (built.reference / "odd").iterdir()}
    assert {"raised", "capable", "listed", "fifo", "device", "by-way", "n" * 255} <= found
    assert "raised-too" not in found
    names = [path.name for path in (built.reference / "usr/share/doc/coreutils").iterdir()]
    assert names == ["new"]
    assert not (built.reference / "usr/bin/yes").exists()
    assert (built.reference / "lib").is_symlink()


@pytest.mark.parametrize("form", ["gzip", "plain", "docker-schema-2", "oci-index", "docker-list"])
def test_both_fronts_show_what_umoci_unpacks(
    form: str, built: Built, node: Node, tmp_path: Path, say: Say
) -> None:
    equal_on_both_fronts(built.reference, built.push(form), node, tmp_path, say)


@pytest.mark.parametrize("form", ["zstd", "zstd-chunked"])
def test_both_fronts_show_what_containerd_mounts(
    form: str, built: Built, containerd: Containerd, node: Node, tmp_path: Path, say: Say
) -> None:
    image = built.push(form)
    layers = built.layers(image)
    assert {layer["mediaType"] for layer in layers} == {ZSTD}
    chunked = ["zstd-chunked" in str(layer.get("annotations")) for layer in layers]
    assert chunked == [form == "zstd-chunked"] * len(layers), layers
    with containerd.tree(image, tmp_path / "reference") as reference:
        equal_on_both_fronts(reference, image, node, tmp_path, say, but=OF_OVERLAY)


def test_both_fronts_show_sparse_files_as_containerd_mounts_them(
    built: Built, containerd: Containerd, node: Node, tmp_path: Path, say: Say
) -> None:
    image = built.push("sparse")
    with containerd.tree(image, tmp_path / "reference") as reference:
        assert len(list(reference.glob("sparse-*/many"))) == 3
        equal_on_both_fronts(reference, image, node, tmp_path, say, but=OF_OVERLAY)
        assert list((node.root / "index").glob("*.v1.sparse"))
