"""Manifests, indexes and configs: an input is a digit, a document, a NUL and a config.

The digit says which media type the registry states. The oracle is Python's own JSON.
"""

import copy
import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from clipfs import errors
from clipfs.image.digest import is_digest
from clipfs.image.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_LAYERS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    artifact_layers,
    parse_config,
    parse_document,
)
from clipfs.image.model import Layer
from clipfs.image.platform import Platform
from clipfs.layer.index import PackedEntries, make_index
from clipfs.tree.worker import raw_entry
from tests.fuzz.judge import Mutate, Outcome, expect, expect_plain, expect_same
from tests.image import documents

MEDIA_TYPES = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "", "application/json"]
WANTED = Platform("linux", "arm64")
_REFUSALS = (errors.CorruptImage, errors.UnsupportedImage, errors.ImageNotFound)
_TITLE = "org.opencontainers.image.title"
_DIGEST = documents.digest(b"layer")
_TYPES = [
    *MEDIA_TYPES,
    *(documents.OCI_LAYER, documents.OCI_CONFIG, documents.DOCKER_LAYER, documents.DOCKER_CONFIG),
    *("application/vnd.oci.image.layer.nondistributable.v1.tar", "text/plain", "a\nb", "\ud800"),
]
_VALUES: list[Any] = [
    *(None, True, 0, -1, 2, 1, 1.5, 1 << 62, 1 << 63, 1 << 70, "", "x", [], {}, [[]]),
    *("\n", "\0", "../up", "/etc/passwd", "a/../../b", ".wh.a", "é\u2028", "a" * 300),
    *(_DIGEST, "sha256:0", "md5:" + "0" * 32, _DIGEST.upper(), "linux", "arm64", "v8", "unknown"),
    *_TYPES,
]
_KEYS = [
    *("schemaVersion", "mediaType", "manifests", "config", "layers", "digest", "size"),
    *("platform", "annotations", "rootfs", "diff_ids", "os", "architecture", "variant"),
    *(_TITLE, "io.deis.oras.content.unpack", "urls"),
]


def seeds() -> Iterable[bytes]:
    layer = documents.described(b"layer", documents.OCI_LAYER)
    other = documents.described(b"other", documents.DOCKER_LAYER)
    image = documents.described(b"config", documents.OCI_CONFIG)
    empty = documents.described(b"{}", "application/vnd.oci.empty.v1+json")
    raw = documents.described(b"raw", "text/plain", annotations={_TITLE: "folder/model.bin"})
    packed = {**layer, "annotations": {_TITLE: "d", "io.deis.oras.content.unpack": "true"}}
    children = [
        documents.described(b"a", OCI_MANIFEST, platform=documents.AMD64),
        documents.described(b"b", OCI_MANIFEST, platform={**documents.ARM64, "variant": "v8"}),
        documents.described(b"c", OCI_MANIFEST, platform={"os": "unknown", "architecture": "u"}),
        documents.described(b"d", OCI_MANIFEST),
    ]
    config = documents.config(_DIGEST, documents.digest(b"other"))
    two = documents.manifest(image, layer, other)
    return [
        b"0" + two + b"\0" + config,
        b"2" + documents.manifest(image, layer, mediaType=None) + b"\0" + config,
        b"0" + documents.manifest(empty, raw, packed, layer) + b"\0",
        b"0" + documents.manifest(image, raw) + b"\0" + documents.config(_DIGEST),
        b"1" + documents.index(*children) + b"\0",
        b"3" + documents.index(*children[:1], mediaType=DOCKER_LIST) + b"\0",
        b"1" + documents.index(*children[2:]) + b"\0",
        b"0" + documents.manifest(image, layer, schemaVersion=1) + b"\0",
        b"4" + two + b"\0{}",
        b"5" + b"[" * 50 + b"\0",
        b"0" + documents.manifest(image, layer, manifests=children) + b"\0",
    ]


def run(data: bytes) -> Outcome:
    kind, document, config = _parts(data)
    try:
        found = parse_document(document, media_type=kind, of="host/name:tag", wanted=WANTED)
    except _REFUSALS as error:
        expect_plain(error)
        return Outcome.STOPPED if ": malformed: " in str(error) else Outcome.REFUSED
    stated = json.loads(document.decode(errors="replace"))  # a field that nobody reads may be
    if isinstance(found, Descriptor):
        _holds(found)
        is_there = (found.digest, found.size, found.media_type) in [
            (one["digest"], one["size"], one["mediaType"]) for one in stated["manifests"]
        ]
        expect(is_there, "a descriptor that is not in the index")
        return Outcome.READ
    _holds_manifest(found, stated)
    try:
        layers = parse_config(config, found, of="c") if found.is_image else artifact_layers(found)
    except _REFUSALS as error:
        expect_plain(error)
        return Outcome.REFUSED
    expect_same([one.digest for one in layers], [one.digest for one in found.layers], "layers")
    if found.is_image:
        diff_ids = json.loads(config.decode(errors="replace"))["rootfs"]["diff_ids"]
        expect_same([one.diff_id for one in layers], diff_ids, "diff_ids")
    for layer in layers:
        _holds_raw(layer)
    return Outcome.READ


def mutate(data: bytes, random: Random, blind: Mutate, max_bytes: int) -> bytes:
    kind, document, config = data[:1], *_parts(data)[1:]
    if random.random() < 0.1:
        kind = b"%d" % random.randrange(6)
    which = random.random()
    if which < 0.1:
        document = blind(document, max_bytes - len(config) - 2)
    elif which < 0.8:
        document = _edited(document, random)
    elif which < 0.85:
        config = blind(config, max_bytes - len(document) - 2)
    else:
        config = _edited(config, random)
    return kind + document + b"\0" + config


def _parts(data: bytes) -> tuple[str, bytes, bytes]:
    kind = MEDIA_TYPES[data[0] % len(MEDIA_TYPES)] if data else ""
    document, _, config = data[1:].partition(b"\0")
    return kind, document, config


def _holds(one: Descriptor) -> None:
    expect(is_digest(one.digest), "a digest that is none")
    expect(0 <= one.size <= 1 << 62, "a size out of range")


def _holds_manifest(found: Manifest, stated: dict[str, Any]) -> None:
    expect(len(found.layers) <= MAX_LAYERS, "too many layers")
    for one, raw in zip(
        [found.config, *found.layers], [stated["config"], *stated["layers"]], strict=True
    ):
        _holds(one)
        values = (one.digest, one.size, one.media_type)
        expect_same(values, (raw["digest"], raw["size"], raw["mediaType"]), "a descriptor")


def _holds_raw(layer: Layer) -> None:
    if layer.raw_path is None:
        return
    index = make_index(payload_bytes=0, diff_id="", chunk_digests=b"", entries=PackedEntries())
    try:
        entry = raw_entry(layer.raw_path, index)
    except errors.CorruptImage as error:
        expect_plain(error)
        return
    parts = entry.path.split(b"/")
    expect(all(part not in (b"", b".", b"..") and len(part) < 256 for part in parts), "a bad path")


def _edited(document: bytes, random: Random) -> bytes:
    """document with some values, keys or elements changed; as it is, if it is no JSON."""
    try:
        tree = json.loads(document)
    except (ValueError, RecursionError):
        return document or json.dumps(random.choice(_VALUES)).encode()
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            break
        random.choice(_CHANGES)(*random.choice(places), random)
    return json.dumps(tree, ensure_ascii=random.random() < 0.9).encode("utf-8", "replace")


def _places(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys: Iterable[Any] = ()
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = range(len(tree))
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _replace(holder: Any, key: Any, random: Random) -> None:
    same = [value for value in _VALUES if type(value) is type(holder[key])]
    holder[key] = copy.deepcopy(random.choice(same if same and random.random() < 0.8 else _VALUES))


def _remove(holder: Any, key: Any, random: Random) -> None:
    del holder[key]


def _add(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, dict):
        value = random.choice([holder[key], random.choice(_VALUES)])
        holder[random.choice(_KEYS)] = copy.deepcopy(value)
    else:
        holder.insert(key, copy.deepcopy(random.choice(holder)))


def _set_type(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, dict) and "mediaType" in holder:
        holder["mediaType"] = random.choice(_TYPES)


_Edit = Callable[[Any, Any, Random], None]
_CHANGES: list[_Edit] = [_replace, _replace, _remove, _add, _add, _set_type, _set_type]
