"""A small image in a real registry, with names that a terminal would obey, and one node."""

import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import images
from tests.support.node import Node
from tests.support.registry import RegistryServer

HOSTILE = b"\x1b]0;owned\x07\x1b[2J\r\n\xff"
LIST_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Small:
    """The image's reference, that of a list with it for linux/amd64, the registry of both."""

    image: str
    listed: str
    registry: RegistryServer


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> Small:
    home = tmp_path_factory.mktemp("small")
    tree = home / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/x").write_bytes(b"x" * 1536)
    (tree / "lib").symlink_to("usr/lib")
    (tree / "dangling").symlink_to("nowhere")
    os.close(os.open(os.fsencode(tree) + b"/" + HOSTILE, os.O_CREAT))
    os.symlink(HOSTILE, os.fsencode(tree) + b"/to-hostile")
    images.write_layout(home / "oci", [images.layer(tree, home / "1.tar")])
    image = images.push(home / "oci", registry.address, "small:1")
    return Small(image, _push_list(home / "oci", registry.address), registry)


def _push_list(layout: Path, address: str) -> str:
    """The layout's own index, which names one manifest with its platform."""
    content = {**json.loads((layout / "index.json").read_text()), "mediaType": LIST_TYPE}
    request = urllib.request.Request(
        f"http://{address}/v2/small/manifests/list",
        data=json.dumps(content).encode(),
        headers={"Content-Type": LIST_TYPE},
        method="PUT",
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
    return f"{address}/small:list"


@pytest.fixture
def node(tmp_path: Path, small: Small) -> Iterator[Node]:
    found = Node(tmp_path / "root", ["--plain-http", small.registry.address])
    try:
        yield found
    finally:
        found.close()
