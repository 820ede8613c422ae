"""Images for the cluster: a real one of Debian packages, one a layer, and random bytes."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import images
from tests.support.images import Packed

PACKAGES = (
    "tzdata", "bash", "coreutils", "perl-modules-5.36", "libpython3.11-stdlib", "libperl5.36",
)  # fmt: skip
CACHE = Path(os.environ.get("CLIP_TEST_CACHE") or Path.home() / ".cache/clip-csi-tests")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image in an OCI layout; `files` are its regular files: path -> sha256.

    layers  digests, the lowest first
    """

    layout: Path
    layers: tuple[str, ...]
    files: dict[str, str]
    payload_bytes: int

    def biggest(self) -> str:
        return next(iter(self.files))


def build_sample(home: Path, *, codec: str, mark: str = "") -> Sample:
    """The image with its layers compressed by codec; downloads the packages once a machine.

    mark  a word that a file of each layer has, so that there are no others like them
    """
    layers = [_layer(deb, home) for deb in _packages(CACHE / "debian-packages")]
    for one in layers if mark else ():
        _add(one.tar, "mark", mark.encode())
    layout = home / f"oci-{codec}"
    images.write_layout(layout, layers, codec=codec)
    manifest = json.loads(_blob(layout, json.loads((layout / "index.json").read_text())))
    return Sample(
        layout=layout,
        layers=tuple(layer["digest"] for layer in manifest["layers"]),
        files=_files(layers),
        payload_bytes=sum(layer.tar.stat().st_size for layer in layers),
    )


@dataclass(frozen=True, slots=True)
class RandomImage:
    """An image that nobody has seen before: `/LAYER/data`, LAYER from 0, in an OCI layout.

    digest      of its manifest
    layers      digests, the lowest first
    blob_bytes  of its layers, compressed
    data        sha256 of each layer's file
    """

    layout: Path
    digest: str
    layers: tuple[str, ...]
    blob_bytes: int
    data: tuple[str, ...]


def random_image(home: Path, *, layers: int = 1, layer_bytes: int = 1 << 20) -> RandomImage:
    made, data = [], []
    for number in range(layers):
        folder = home / f"{number}.d"
        (folder / str(number)).mkdir(parents=True)
        body = os.urandom(layer_bytes)
        (folder / f"{number}/data").write_bytes(body)
        data.append(hashlib.sha256(body).hexdigest())
        made.append(images.layer(folder, home / f"{number}.tar"))
    images.write_layout(home / "oci", made)
    index = json.loads((home / "oci/index.json").read_text())
    manifest = json.loads(_blob(home / "oci", index))
    return RandomImage(
        layout=home / "oci",
        digest=index["manifests"][0]["digest"],
        layers=tuple(layer["digest"] for layer in manifest["layers"]),
        blob_bytes=sum(layer["size"] for layer in manifest["layers"]),
        data=tuple(data),
    )


def _packages(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *missing],
            cwd=folder,
            check=True,
        )
    return [next(folder.glob(f"{name}_*.deb")) for name in PACKAGES]


def _layer(deb: Path, home: Path) -> Packed:
    tar = home / f"{deb.stem}.tar"
    if not tar.exists():
        with tar.open("wb") as out:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=out, check=True)
    return Packed(tar)


def _add(tar: Path, name: str, body: bytes) -> None:
    with tarfile.open(tar, "a") as file:
        member = tarfile.TarInfo(name)
        member.size = len(body)
        file.addfile(member, io.BytesIO(body))


def _files(layers: list[Packed]) -> dict[str, str]:
    """Regular files of more than 0 bytes, the biggest first."""
    sizes, digests = dict[str, int](), dict[str, str]()
    for layer in layers:
        with tarfile.open(layer.tar) as tar:
            for member in tar:
                body = tar.extractfile(member) if member.isreg() and member.size else None
                if body is not None:
                    path = member.name.removeprefix("./")
                    sizes[path] = member.size
                    digests[path] = hashlib.sha256(body.read()).hexdigest()
    return {path: digests[path] for path in sorted(digests, key=lambda p: -sizes[p])}


def _blob(layout: Path, index: dict[str, list[dict[str, str]]]) -> bytes:
    digest = index["manifests"][0]["digest"]
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()
