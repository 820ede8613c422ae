"""An image again, in layers that nobody has seen: what a node is cold for, as often as wanted.

Each layer gets one more small file in front: a gzip member of its own before the blob's, so that
nothing is compressed anew. Digest and diff_id are new, payload and compression those of before.
"""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20


def renewed(layout: Path, home: Path, mark: str) -> Path:
    """A layout at home with one image, tagged `x`: that of layout, marked."""
    (home / "blobs/sha256").mkdir(parents=True)
    index = json.loads((layout / "index.json").read_text())
    manifest = _read(layout, index["manifests"][0])
    config = _read(layout, manifest["config"])
    diff_ids = []
    for number, layer in enumerate(manifest["layers"]):
        head = _member(f".marks/{mark}-{number}")
        layer |= _put(home, gzip.compress(head) + _blob(layout, layer).read_bytes())
        diff_ids.append(_diff_id(_blob(home, layer)))
    config["rootfs"]["diff_ids"] = diff_ids
    manifest["config"] |= _put(home, json.dumps(config).encode())
    index["manifests"][0] |= _put(home, json.dumps(manifest).encode())
    (home / "index.json").write_text(json.dumps(index))
    (home / "oci-layout").write_text((layout / "oci-layout").read_text())
    return home


def _member(name: str) -> bytes:
    """A tar's file of that name, without the blocks that end a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(name)
        tar.addfile(info, io.BytesIO(name.encode()))
        end = tar.offset
    return out.getvalue()[:end]


def _diff_id(blob: Path) -> str:
    digest = hashlib.sha256()
    with gzip.open(blob) as payload:
        while piece := payload.read(PIECE_BYTES):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _blob(layout: Path, described: dict[str, Any]) -> Path:
    return layout / "blobs" / str(described["digest"]).replace(":", "/")


def _read(layout: Path, described: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_blob(layout, described).read_bytes())
    return found


def _put(layout: Path, data: bytes) -> dict[str, Any]:
    described = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    _blob(layout, described).write_bytes(data)
    return described
