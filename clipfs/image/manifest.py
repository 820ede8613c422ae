"""Manifests, bytes in and plain values out: which descriptor, which layers, which diff_ids.

The bytes were checked against the digest that named them before they came here; what they
say is still anybody's. Everything that clipfs does not read is refused in one line.

Source: OCI image specification, "Image Index", "Image Manifest", "Image Configuration",
"Descriptor", "Annotations"; Docker image manifest version 2, schema 2; the annotations of ORAS.
"""

from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import msgspec

from clipfs import errors
from clipfs.image import platform as platforms
from clipfs.image.digest import Digest, parse_digest
from clipfs.image.model import Layer
from clipfs.image.platform import Platform

MAX_DOCUMENT_BYTES = 4 << 20
"""What registries themselves take for a manifest; a config is smaller."""

MAX_LAYERS = 1024
"""Docker stops at 127; the index numbers devices with 16 bits."""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset((OCI_INDEX, DOCKER_LIST))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
CONFIGS = frozenset(
    (
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    )
)
LAYERS = frozenset(
    (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    )
)
FOREIGN = ("nondistributable", "foreign")
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
"""ORAS packs a folder as a tar, and says by this that it is to be unpacked."""

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
T = TypeVar("T")


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class _RawDescriptor(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: Size
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """An index or a manifest, as far as it says which it is."""

    schema_version: int
    media_type: str | None = None
    manifests: list[_RawDescriptor] | None = None
    config: _RawDescriptor | None = None
    layers: list[_RawDescriptor] | None = None


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What one document says of another, or of a layer's blob: its kind, digest and bytes.

    raw_path  of a layer that is one file: where it goes
    """

    media_type: str
    digest: Digest
    size: int
    raw_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest: its config, and its layers without their diff_ids.

    is_image  False of an artifact, whose config is not an image's and tells no diff_ids
    """

    config: Descriptor
    layers: tuple[Descriptor, ...]
    is_image: bool = True


def parse_document(
    data: bytes, *, media_type: str, of: str, wanted: Platform
) -> Descriptor | Manifest:
    """The descriptor for the wanted platform if data is an index, else the manifest that it is.

    media_type  as the registry or the parent says it
    of          what data is, for errors
    """
    document = _decoded(data, _Document, of)
    if document.schema_version != 2:
        raise errors.UnsupportedImage(
            f"{of}: manifest schema {document.schema_version} is not supported; push it again "
            "with a current tool"
        )
    if _is_index(document, media_type, of):
        if document.manifests is None:
            raise errors.CorruptImage(f"{of}: the index has no manifests")
        return _chosen(document.manifests, of, wanted)
    return _manifest(document, of)


def parse_config(data: bytes, manifest: Manifest, *, of: str) -> tuple[Layer, ...]:
    """The layers with the diff_ids that the config gives them; CorruptImage if they differ."""
    diff_ids = _decoded(data, _Config, of).rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise errors.CorruptImage(
            f"{of}: the manifest has {len(manifest.layers)} layers, the config "
            f"{len(diff_ids)} diff_ids"
        )
    return tuple(
        _layer(layer, parse_digest(diff_id, of=f"{of}: a diff_id"))
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
    )


def artifact_layers(manifest: Manifest) -> tuple[Layer, ...]:
    """The layers of an artifact; a raw one's payload is its blob, a tar's is told by nobody."""
    return tuple(
        _layer(layer, layer.digest if layer.raw_path is not None else None)
        for layer in manifest.layers
    )


def _layer(described: Descriptor, diff_id: Digest | None) -> Layer:
    return Layer(
        digest=described.digest,
        size=described.size,
        media_type=described.media_type,
        diff_id=diff_id,
        raw_path=described.raw_path,
    )


def _is_index(document: _Document, media_type: str, of: str) -> bool:
    """Index or manifest; who says it must agree, or two clients see two images in one digest.

    Source  CVE-2021-41190, "OCI manifest type confusion"
    """
    kinds = {media_type, document.media_type}
    says_index = not kinds.isdisjoint(INDEXES) or document.manifests is not None
    says_manifest = not kinds.isdisjoint(MANIFESTS) or document.layers is not None
    if says_index and says_manifest:
        raise errors.CorruptImage(f"{of}: an index and a manifest in one document")
    if kinds.isdisjoint(INDEXES | MANIFESTS):
        kind = document.media_type or media_type
        raise errors.UnsupportedImage(f"{of}: the media type {kind[:100]!r} is not an image's")
    return says_index


def _chosen(children: list[_RawDescriptor], of: str, wanted: Platform) -> Descriptor:
    offered = [_platform(child) for child in children]
    position = platforms.choose(wanted, offered)
    if position is None:  # what names no platform is for any: data, for example
        position = next((n for n, child in enumerate(children) if child.platform is None), None)
    if position is None:
        names = sorted({str(one)[:40] for one in offered if one})[:20]
        there = ", ".join(ascii(name)[1:-1] for name in names) or "none"
        raise errors.ImageNotFound(f"{of}: no image for {wanted}; there are: {there}")
    return _descriptor(children[position], of)


def _platform(child: _RawDescriptor) -> Platform | None:
    one = child.platform
    if one is None or not one.os or one.os == "unknown":  # attestations say unknown/unknown
        return None
    return Platform(one.os, one.architecture, one.variant or None)


def _manifest(document: _Document, of: str) -> Manifest:
    if document.config is None or document.layers is None:
        raise errors.CorruptImage(f"{of}: the manifest has no config or no layers")
    if len(document.layers) > MAX_LAYERS:
        raise errors.CorruptImage(f"{of}: {len(document.layers)} layers, over {MAX_LAYERS}")
    for layer in document.layers:
        if any(word in layer.media_type for word in FOREIGN):
            raise errors.UnsupportedImage(
                f"{of}: a layer is foreign ({layer.media_type[:100]!r}), its bytes are not in "
                "the registry"
            )
    is_image = document.config.media_type in CONFIGS
    return Manifest(
        config=_descriptor(document.config, of),
        layers=tuple(_layer_descriptor(layer, of, is_image) for layer in document.layers),
        is_image=is_image,
    )


def _layer_descriptor(descriptor: _RawDescriptor, of: str, is_image: bool) -> Descriptor:
    """A layer is one file if it has a title and is not packed, or an artifact's of another type.

    In an image, a layer of another type is a tree in a form that clipfs does not read.
    """
    plain = _descriptor(descriptor, of)
    annotations = descriptor.annotations or {}
    title = annotations.get(TITLE)
    is_packed = annotations.get(UNPACK) == "true"
    if title is None and is_image and descriptor.media_type not in LAYERS:
        raise errors.UnsupportedImage(
            f"{of}: the layer media type {descriptor.media_type[:100]!r} is not supported; build "
            "the image with layers in tar, tar+gzip or tar+zstd"
        )
    if descriptor.media_type in LAYERS and (title is None or is_packed):
        return plain
    return replace(plain, raw_path=title or plain.digest.replace(":", "_", 1))


def _descriptor(descriptor: _RawDescriptor, of: str) -> Descriptor:
    return Descriptor(
        media_type=descriptor.media_type,
        digest=parse_digest(descriptor.digest, of=of),
        size=descriptor.size,
    )


def _decoded(data: bytes, kind: type[T], of: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.CorruptImage(f"{of}: malformed: {error}") from error
