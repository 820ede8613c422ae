"""The demo's image is a real one: registry, skopeo and umoci take it, and show its files."""

import gzip
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from demo import checks, image
from demo.image import HIDDEN, WHITEOUT, Image, pack, push
from demo.stage import NotAsPromised
from tests.support import images
from tests.support.registry import RegistryServer


@pytest.fixture
def built(tmp_path: Path) -> Image:
    """Two layers; the upper one hides the documentation, as the demo's does."""
    source = tmp_path / "source"
    (source / HIDDEN).mkdir(parents=True)
    (source / HIDDEN / "README").write_text("hidden")
    (source / "tool").write_bytes(os.urandom(100_000))
    (source / "link").symlink_to("tool")
    names = [HIDDEN, f"{HIDDEN}/README", "tool", "link"]
    folder = tmp_path / "layers"
    folder.mkdir()
    below = pack("below", folder, ((name, str(source / name)) for name in names))
    above = pack("above", folder, [("copy", str(source / "tool"))], whiteouts=[WHITEOUT])
    return Image(layers=[below, above])


def test_a_layer_is_named_by_its_blob_and_its_payload(built: Image) -> None:
    for layer in built.layers:
        blob = layer.blob.read_bytes()
        payload = gzip.decompress(blob)
        assert layer.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
        assert layer.diff_id == "sha256:" + hashlib.sha256(payload).hexdigest()
        assert (layer.blob_bytes, layer.payload_bytes) == (len(blob), len(payload))


def test_umoci_shows_the_files_that_the_image_claims(
    built: Image, registry: RegistryServer, tmp_path: Path
) -> None:
    assert sorted(built.files) == ["copy", "tool"]
    reference = push(built, registry.address, "demo/small:1")
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{reference}",
         f"oci:{tmp_path}/oci:x"],
        check=True,
    )  # fmt: skip
    tree = images.unpack(tmp_path / "oci", tmp_path / "bundle")
    assert checks.same_files(tree, built.files).startswith("2 files")


def test_the_largest_file_comes_with_its_layer(built: Image) -> None:
    layer, path, size = built.largest_file()
    assert (layer.name, path, size) == ("below", "tool", 100_000)


def test_a_refused_push_is_told(built: Image, registry: RegistryServer) -> None:
    with pytest.raises(NotAsPromised, match="push of "):
        push(built, registry.address, "NOT-A-NAME:1")


def test_the_demos_own_libraries_are_found_without_compiled_files() -> None:
    names = [name for name, _ in image._library_files()]
    assert "app/rich/table.py" in names
    assert not [name for name in names if name.endswith(".pyc")]
