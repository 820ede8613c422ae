"""Manifests, indexes and configs as bytes, and what names them: written by hand, so that a
test can write them wrong."""

import hashlib
import json
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}

Described = dict[str, Any]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data: bytes, media_type: str, **more: Any) -> Described:
    """The descriptor of data; more overrides or adds fields."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def config(*diff_ids: str) -> bytes:
    return json.dumps({**AMD64, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def manifest(config: Described, /, *layers: Described, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
        **more,
    }
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()


def index(*children: Described, **more: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, **more}
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()
