"""Artifacts in a real registry, pushed by hand: any layer types, any annotations."""

import hashlib
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

Blob = tuple[bytes, str, Mapping[str, str]]
"""A layer: its bytes, media type and annotations."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def push_artifact(registry: str, name: str, layers: Sequence[Blob]) -> str:
    """Upload the artifact to the registry at host:port; its reference."""
    repository, _, tag = name.partition(":")
    connection = http.client.HTTPConnection(registry, timeout=30)
    try:
        described = [
            {**_put(connection, repository, data, kind), "annotations": dict(annotations)}
            for data, kind, annotations in layers
        ]
        config = _put(connection, repository, b"{}", "application/vnd.oci.empty.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.model",
            "config": config,
            "layers": described,
        }
        path = f"/v2/{repository}/manifests/{tag}"
        _ask(connection, "PUT", path, json.dumps(manifest).encode(), {"Content-Type": MANIFEST})
    finally:
        connection.close()
    return f"{registry}/{name}"


def _put(
    connection: http.client.HTTPConnection, repository: str, data: bytes, media_type: str
) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = _ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", {})
    parts = urlsplit(place)
    target = f"{parts.path}?{parts.query}&digest={digest}"
    _ask(connection, "PUT", target, data, {"Content-Type": "application/octet-stream"})
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
) -> str:
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status < 300, said
    return answer.headers.get("Location", "")
