"""Our container image: built from the Dockerfile, unpacked, and both commands run in it."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.wait import wait_for

pytestmark = [
    pytest.mark.timeout(1200),  # the first build on a machine makes a Debian, and installs into it
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: buildah makes the image's files"),
]

BUILD = Path(__file__).parents[1] / "e2e/build-image"
MOST_BYTES = 90_000_000
NOBODY = "65534:65534"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """size: what a node pulls, in bytes."""

    root: Path
    size: int
    config: dict[str, Any]

    def command(self, *words: str, user: str = "0:0") -> list[str]:
        """What runs words in the image, with its environment and nothing of this process'."""
        environment = self.config["config"]["Env"]
        proc = 'mount -t proc proc "$0/proc" && exec chroot "$@"'
        return ["unshare", "--mount", "sh", "-c", proc,
                str(self.root), f"--userspec={user}", str(self.root), "/usr/bin/env", "-i",
                *environment, *words]  # fmt: skip # as typed by hand

    def run(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, *words: str, user: str = "0:0") -> Iterator[None]:
        with subprocess.Popen(self.command(*words, user=user)) as process:
            try:
                yield
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    home = tmp_path_factory.mktemp("image")
    subprocess.run([str(BUILD), f"{home}/oci:x"], check=True)
    unpack = ["umoci", "--log=error", "unpack", "--image", f"{home}/oci:x", f"{home}/bundle"]
    subprocess.run(unpack, check=True)
    index = json.loads((home / "oci/index.json").read_text())
    manifest = _blob(home / "oci", index["manifests"][0]["digest"])
    return BuiltImage(
        root=home / "bundle/rootfs",
        size=sum(layer["size"] for layer in manifest["layers"]),
        config=_blob(home / "oci", manifest["config"]["digest"]),
    )


def _blob(layout: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())
    return found


def test_it_is_small_and_says_what_it_is(image: BuiltImage) -> None:
    print(f"{image.size:,} bytes to pull")
    assert image.size < MOST_BYTES
    labels = image.config["config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "clip-csi"
    assert labels["org.opencontainers.image.version"]
    assert image.config["config"]["Entrypoint"] == ["clip-csi"]


def test_what_built_it_is_not_in_it(image: BuiltImage) -> None:
    programs = {path.name for path in image.root.glob("**/bin/*")}
    assert {"clipfs", "clip-csi", "python3"} <= programs
    assert not programs & {"gcc", "cc", "ld", "pip", "pip3", "pkg-config"}
    assert not list(image.root.glob("usr/include/*"))
    assert not list(image.root.glob("var/lib/apt/lists/*"))


@pytest.mark.parametrize("module", ["clipfs.cli.main", "clipfs.layer.worker", "csi.main"])
def test_nothing_is_compiled_at_a_start(module: str, image: BuiltImage) -> None:
    said = image.run("python3", "-v", "-c", f"import {module}")
    loaded = re.findall(r"code object from '(\S+)'", said)
    assert any(f"/{module.rpartition('.')[2]}.cpython" in path for path in loaded)
    assert not [path for path in loaded if not path.endswith(".pyc")]


def test_the_content_cache_serves_without_roots_rights(image: BuiltImage) -> None:
    (image.root / "tmp/token").write_text("secret\n")
    address = f"127.0.0.1:{free_port()}"
    with image.serving(
        "clipfs", "content-cache", "serve", "--dir=/tmp/objects", f"--listen={address}",
        "--token-file=/tmp/token", user=NOBODY,
    ):  # fmt: skip # as typed by hand
        assert "id" in json.loads(wait_for(lambda: _answer(f"http://{address}/healthz")))
        assert (image.root / "tmp/objects").stat().st_uid == 65534


def test_the_node_plugin_becomes_ready(image: BuiltImage) -> None:
    for name in ("kubelet", "images"):
        (image.root / name).mkdir()
    address = f"127.0.0.1:{free_port()}"
    with image.serving(
        *image.config["config"]["Entrypoint"], "node", "--endpoint=unix:///kubelet/csi.sock",
        "--node-id=n1", "--kubelet-root=/kubelet", f"--metrics={address}",
    ):  # fmt: skip # as typed by hand
        wait_for(lambda: _answer(f"http://{address}/readyz"))
        assert (image.root / "kubelet/csi.sock").is_socket()


def _answer(url: str) -> bytes:
    """Nothing as long as there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read() or b"ok")
    except OSError:
        return b""
