"""A real image: layers of this machine's own files, built here and pushed by plain HTTP.

Three layers are Debian packages; the fourth is Python libraries under /app and a whiteout that
takes /usr/share/doc away. `Image.files` says what a pod must see, from the files themselves.

Source: OCI image-spec 1.1, "Image Layer Filesystem Changeset"; distribution-spec 1.1, "Push".
"""

import hashlib
import importlib.util
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import httpx
from isal import igzip_threaded

from demo.packages import closure, files_of, installed_packages
from demo.stage import NotAsPromised

PACKAGES = {"base": ["base-files", "coreutils"], "python": ["python3"], "compiler": ["gcc"]}
LIBRARIES = ["rich", "pygments", "markdown_it", "mdurl", "click", "httpx", "h11", "idna"]
APP = "app"
HIDDEN = "usr/share/doc"
WHITEOUT = "usr/share/.wh.doc"

_TYPE = "application/vnd.oci.image.{}.v1"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A built layer: `blob` is the gzip file; sizes in bytes; sha256 by path in `files`."""

    name: str
    blob: Path
    digest: str
    diff_id: str
    blob_bytes: int
    payload_bytes: int
    files: Mapping[str, str]
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was built, lowest layer first."""

    layers: Sequence[Layer]

    @property
    def files(self) -> dict[str, str]:
        """sha256 of every regular file that the merged tree shows, by its path."""
        below = {path: digest for one in self.layers for path, digest in one.files.items()}
        return {path: digest for path, digest in below.items() if not path.startswith(HIDDEN + "/")}

    @property
    def blob_bytes(self) -> int:
        return sum(layer.blob_bytes for layer in self.layers)

    @property
    def payload_bytes(self) -> int:
        return sum(layer.payload_bytes for layer in self.layers)

    def largest_file(self) -> tuple[Layer, str, int]:
        """The layer that has it, its path, and its size."""
        rows = ((size, path, layer) for layer in self.layers for path, size in layer.sizes.items())
        size, path, layer = max(rows, key=lambda row: row[0])
        return layer, path, size


def build(folder: Path) -> Image:
    """Pack the layers into folder."""
    folder.mkdir()
    installed, below, layers = installed_packages(), list[str](), list[Layer]()
    for name, roots in PACKAGES.items():
        packages = closure(roots, installed, without=below)
        below += packages
        layers.append(pack(name, folder, ((path[1:], path) for path in files_of(packages))))
    layers.append(pack("app", folder, _library_files(), whiteouts=[WHITEOUT]))
    return Image(layers=layers)


def pack(
    name: str, folder: Path, files: Iterable[tuple[str, str]], *, whiteouts: Sequence[str] = ()
) -> Layer:
    """One layer of `files`, each its path in the image and its path here."""
    blob, digests, sizes = folder / f"{name}.tar.gz", dict[str, str](), dict[str, int]()
    with igzip_threaded.open(blob, "wb", 1, threads=1) as stream:  # type: ignore[no-untyped-call] # isal's
        payload = _Digesting(stream)
        with tarfile.open(fileobj=payload, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in whiteouts:
                tar.addfile(tarfile.TarInfo(path))
            for path, source in files:
                tar.add(source, path, recursive=False)
                if os.path.isfile(source) and not os.path.islink(source):
                    digests[path], sizes[path] = sha256_of(source), os.path.getsize(source)
    return Layer(
        name=name,
        blob=blob,
        digest="sha256:" + sha256_of(blob),
        diff_id=payload.digest,
        blob_bytes=blob.stat().st_size,
        payload_bytes=payload.count,
        files=digests,
        sizes=sizes,
    )


def sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def push(image: Image, registry: str, name: str) -> str:
    """Upload the image to the registry at host:port; its reference."""
    repository, _, tag = name.partition(":")
    url = f"http://{registry}/v2/{repository}/"
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:  # no proxy: loopback
        layers = []
        for layer in image.layers:
            with layer.blob.open("rb") as blob:
                _upload(client, layer.digest, blob, layer.blob_bytes)
            media_type = _TYPE.format("layer") + ".tar+gzip"
            layers.append(_descriptor(media_type, layer.digest, layer.blob_bytes))
        config = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in image.layers]},
        }
        data = json.dumps(config).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        _upload(client, digest, data, len(data))
        media_type = _TYPE.format("manifest") + "+json"
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": _descriptor(_TYPE.format("config") + "+json", digest, len(data)),
            "layers": layers,
        }
        answer = client.put(f"manifests/{tag}", json=manifest, headers={"Content-Type": media_type})
        _check(answer, "manifest")
    return f"{registry}/{name}"


def _library_files() -> Iterator[tuple[str, str]]:
    """The demo's own Python libraries, without compiled files."""
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise NotAsPromised(f"the Python library {name} is not installed; run `make venv`")
        home = Path(spec.submodule_search_locations[0])
        for path in [home, *sorted(home.rglob("*"))]:
            if "__pycache__" not in path.parts:
                yield f"{APP}/{name}/{path.relative_to(home)}".removesuffix("/."), str(path)


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _upload(client: httpx.Client, digest: str, content: bytes | IO[bytes], size: int) -> None:
    begun = client.post("blobs/uploads/")
    _check(begun, digest)
    where = httpx.URL(urljoin(str(begun.request.url), begun.headers["Location"]))
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    answer = client.put(
        where.copy_merge_params({"digest": digest}), content=content, headers=headers
    )
    _check(answer, digest)


def _check(answer: httpx.Response, what: str) -> None:
    if answer.is_error:
        raise NotAsPromised(f"push of {what}: {answer.status_code} {answer.text[:200]}")


class _Digesting(io.RawIOBase):
    """Passes bytes on to a stream, and knows their count and sha256."""

    def __init__(self, below: IO[bytes]) -> None:
        self._below = below
        self._sha256 = hashlib.sha256()
        self.count = 0

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._sha256.update(piece)
        self.count += len(piece)
        self._below.write(piece)
        return len(piece)
