"""A key of the cluster is changed: what the old one signed is signed again, without a download."""

import hmac
import os
from pathlib import Path

import pytest

from tests.support import images
from tests.support.node import Node, content_cache
from tests.support.registry import RegistryServer


@pytest.mark.parametrize("has_layer", [False, True], ids=["new node", "node that has the layer"])
def test_indexing_with_both_keys_signs_anew_for_nodes_that_have_the_new_key_alone(
    has_layer: bool, tmp_path: Path, registry: RegistryServer
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3 << 20))
    images.write_layout(tmp_path / "oci", [images.layer(tree, tmp_path / "tar")])
    image = images.push(tmp_path / "oci", registry.address, f"rotated-{int(has_layer)}:1")
    for name, keys in {"old": "old\n", "both": "new\nold\n", "new": "new\n"}.items():
        (tmp_path / f"{name}.keys").write_text(keys)
    with content_cache(tmp_path / "cc") as (url, token_file, _):

        def node(root: str, keys: str) -> Node:
            options = ["--content-cache", url, "--content-cache-token-file", str(token_file),
                       "--index-key-file", str(tmp_path / f"{keys}.keys"),
                       "--plain-http", registry.address]  # fmt: skip # pairs
            return Node(tmp_path / root, options)

        node("A", "old").json("index", image)
        (layer,) = node("A" if has_layer else "B", "both").json("index", image)["layers"]
        before = registry.blob_reads()
        fresh = node("C", "new")
        fresh.json("index", image)
        asked = registry.blob_reads()[len(before) :]
        assert not [path for path in asked if layer["digest"] in path]
        assert fresh.json("stats")["registry"] == {"reads": 0, "bytes": 0}
    for place in ("cc/objects/objects", "C/index"):
        (index,) = (tmp_path / place).glob("*.toc")
        (record,) = (tmp_path / place).glob("*.origin.*")
        for kind, path in {"toc": index, "origin": record}.items():
            assert is_signed(path, kind, layer["cache_key"], by=b"new")
            assert not is_signed(path, kind, layer["cache_key"], by=b"old")


def is_signed(path: Path, kind: str, name: str, *, by: bytes) -> bool:
    data = path.read_bytes()
    said = b"\0".join([kind.encode(), b"1", name.encode(), data[40:]])
    return data[8:40] == hmac.digest(by, said, "sha256")
