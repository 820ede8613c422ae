"""Real images for the tests: layers by GNU tar, put together by hand, unpacked by umoci.

A layer is a folder that `layer()` packs; a `.wh.` file in it is a whiteout. The OCI layout is
written here so that layers are just what the test says; `umoci unpack` is the reference.
"""

import gzip
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

LAYER_TYPES = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "plain": "application/vnd.oci.image.layer.v1.tar",
}
GZIP_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer's tar, whole."""

    tar: Path

    def blob(self, codec: str) -> bytes:
        payload = self.tar.read_bytes()
        if codec == "gzip":
            return gzip.compress(payload, GZIP_LEVEL, mtime=0)
        if codec == "zstd":
            return zstandard.ZstdCompressor(level=3, threads=2).compress(payload)
        return payload


def layer(
    folder: Path, tar: Path, *, names: Sequence[str] = (".",), base: Path | None = None
) -> Packed:
    """Pack folder (or just names in it) with xattrs and nanoseconds."""
    command = ["tar", "--create", "--file", str(tar), "--directory", str(folder)]
    command += ["--xattrs", "--xattrs-include=*", "--format=pax", "--sort=name", "--no-recursion"]
    listed = subprocess.run(
        ["find", ".", "-print0"], cwd=folder, check=True, capture_output=True
    ).stdout
    command += ["--null", "--files-from=-"]
    subprocess.run(command, check=True, input=listed)
    return Packed(tar)


def write_layout(layout: Path, layers: Sequence[Packed], *, codec: str = "gzip") -> None:
    """An OCI image layout with one image, tagged `x`."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    described = []
    for one in layers:
        described.append(_put(blobs, one.blob(codec), LAYER_TYPES[codec]))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": [_digest(one.tar.read_bytes()) for one in layers],
        },
        "config": {},
        "history": [{"created_by": "test"} for _ in layers],
    }
    config_type = "application/vnd.oci.image.config.v1+json"
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": _put(blobs, json.dumps(config).encode(), config_type),
        "layers": described,
    }
    entry = _put(blobs, json.dumps(manifest).encode(), manifest_type)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    entry["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def push(layout: Path, registry: str, name: str, *, creds: str = "") -> str:
    """Copy the layout's image to the registry as it is; its reference.

    creds  user:password
    """
    reference = f"{registry}/{name}"
    login = ["--dest-creds", creds] if creds else []
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", *login,
         f"oci:{layout}:x", f"docker://{reference}"],
        check=True,
    )  # fmt: skip
    return reference


def unpack(layout: Path, bundle: Path) -> Path:
    """The image's tree as umoci makes it."""
    subprocess.run(
        ["umoci", "--log=error", "unpack", "--image", f"{layout}:x", str(bundle)],
        check=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return bundle / "rootfs"


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = _digest(data)
    (blobs / digest.partition(":")[2]).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
