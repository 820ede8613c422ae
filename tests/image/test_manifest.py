"""Documents of a registry: which image they make, and one clear line for the others."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfs import errors
from clipfs.image.manifest import (
    MAX_LAYERS,
    Descriptor,
    Manifest,
    artifact_layers,
    parse_config,
    parse_document,
)
from clipfs.image.model import Layer
from clipfs.image.platform import Platform
from tests.image import documents as d

CONFIG = d.described(d.config(d.digest(b"tar")), d.OCI_CONFIG)
LAYER = d.described(b"layer", d.OCI_LAYER)
MANIFEST = d.manifest(CONFIG, LAYER)
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


def parse(
    data: bytes, media_type: str = d.OCI_MANIFEST, platform: str = "amd64"
) -> Descriptor | Manifest:
    return parse_document(
        data, media_type=media_type, of="the image", wanted=Platform("linux", platform)
    )


def named(platform: dict[str, str] | None, name: str = "child", **more: Any) -> d.Described:
    more = {"platform": platform, **more} if platform else more
    return d.described(name.encode(), d.OCI_MANIFEST, **more)


def refused(kind: type[errors.ClipError], match: str, data: bytes, media_type: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        parse(data, media_type)
    text = str(caught.value)
    assert text.startswith("the image")
    assert text.isprintable()
    assert len(text) < 1500


@pytest.mark.parametrize(
    ("manifest", "config", "layer"),
    [
        pytest.param(d.OCI_MANIFEST, d.OCI_CONFIG, d.OCI_LAYER, id="oci-gzip"),
        pytest.param(
            d.OCI_MANIFEST, d.OCI_CONFIG, d.OCI_LAYER.replace("gzip", "zstd"), id="oci-zstd"
        ),
        pytest.param(
            d.OCI_MANIFEST, d.OCI_CONFIG, d.OCI_LAYER.removesuffix("+gzip"), id="oci-plain"
        ),
        pytest.param(d.DOCKER_MANIFEST, d.DOCKER_CONFIG, d.DOCKER_LAYER, id="docker-gzip"),
        pytest.param(
            d.DOCKER_MANIFEST,
            d.DOCKER_CONFIG,
            d.DOCKER_LAYER.replace("gzip", "zstd"),
            id="docker-zstd",
        ),
        pytest.param(
            d.DOCKER_MANIFEST, d.DOCKER_CONFIG, d.DOCKER_LAYER.removesuffix(".gzip"), id="plain"
        ),
    ],
)
@pytest.mark.parametrize("says", ["document", "registry", "both"])
def test_a_manifest_names_its_config_and_layers(
    manifest: str, config: str, layer: str, says: str
) -> None:
    data = d.manifest(
        d.described(b"config", config),
        d.described(b"1", layer),
        d.described(b"2", layer),
        mediaType=None if says == "registry" else manifest,
    )
    found = parse(data, "text/plain" if says == "document" else manifest)
    assert isinstance(found, Manifest)
    assert (found.config.media_type, found.config.digest) == (config, d.digest(b"config"))
    assert [(one.digest, one.size) for one in found.layers] == [
        (d.digest(b"1"), 1),
        (d.digest(b"2"), 1),
    ]


@pytest.mark.parametrize("kind", [d.OCI_INDEX, d.DOCKER_LIST])
@pytest.mark.parametrize(("platform", "child"), [("amd64", b"for amd64"), ("arm64", b"for arm64")])
def test_an_index_leads_to_the_platform_s_manifest(kind: str, platform: str, child: bytes) -> None:
    data = d.index(
        named(UNKNOWN, "attestation"),
        named(d.ARM64, "for arm64"),
        named(d.AMD64, "for amd64"),
        mediaType=kind,
    )
    found = parse(data, kind, platform)
    assert isinstance(found, Descriptor)
    assert (found.digest, found.media_type) == (d.digest(child), d.OCI_MANIFEST)


def test_what_names_no_platform_is_for_any_but_comes_last() -> None:
    everyone, mine = named(None, "everyone"), named(d.AMD64, "mine")
    for children, name in (([everyone, mine], "mine"), ([named(UNKNOWN), everyone], "everyone")):
        found = parse(d.index(*children), d.OCI_INDEX)
        assert isinstance(found, Descriptor)
        assert found.digest == d.digest(name.encode())


def test_a_child_of_another_platform_may_be_of_any_kind() -> None:
    odd = named(d.ARM64, digest="sha512:00", mediaType="x/y")
    assert isinstance(parse(d.index(odd, named(d.AMD64)), d.OCI_INDEX), Descriptor)


def test_a_platform_that_is_not_there_is_answered_with_those_that_are() -> None:
    data = d.index(named(d.ARM64), named({**d.ARM64, "os": "windows"}), named(UNKNOWN))
    refused(
        errors.ImageNotFound,
        "no image for linux/amd64; there are: linux/arm64, windows/arm64$",
        data,
        d.OCI_INDEX,
    )


@pytest.mark.parametrize(
    ("data", "media_type", "kind", "match"),
    [
        pytest.param(
            b'{"schemaVersion": 1, "fsLayers": []}',
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            errors.UnsupportedImage,
            "manifest schema 1 is not supported",
            id="schema-1",
        ),
        pytest.param(
            d.manifest(CONFIG, LAYER, mediaType=None), "application/vnd.oci.artifact.manifest",
            errors.UnsupportedImage, "'application/vnd.oci.artifact.manifest' is not an image's",
            id="artifact-manifest",
        ),
        pytest.param(
            d.manifest(CONFIG, d.described(
                b"", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["http://x"]
            )),
            d.OCI_MANIFEST, errors.UnsupportedImage, "a layer is foreign", id="foreign-docker",
        ),
        pytest.param(
            d.manifest(CONFIG, d.described(
                b"", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")),
            d.OCI_MANIFEST, errors.UnsupportedImage, "a layer is foreign", id="foreign-oci",
        ),
        pytest.param(
            d.manifest(CONFIG, d.described(b"", "application/x\x1b[2J")),
            d.OCI_MANIFEST, errors.UnsupportedImage, "layer media type", id="unknown-layer",
        ),
        pytest.param(
            d.manifest(CONFIG, d.described(b"", "foreign\x1b\x9b\u202e" + "x" * 100_000)),
            d.OCI_MANIFEST, errors.UnsupportedImage, "a layer is foreign", id="foreign-and-hostile",
        ),
        pytest.param(
            d.manifest(CONFIG, {**LAYER, "digest": "sha512:" + "0" * 128}),
            d.OCI_MANIFEST, errors.UnsupportedImage, "is not a sha256 digest", id="sha512",
        ),
        pytest.param(
            d.manifest(CONFIG, {**LAYER, "digest": "sha256:../../../etc/passwd"}),
            d.OCI_MANIFEST, errors.UnsupportedImage, "is not a sha256 digest", id="path-as-digest",
        ),
        pytest.param(
            d.manifest(CONFIG, *[LAYER] * (MAX_LAYERS + 1)),
            d.OCI_MANIFEST, errors.CorruptImage, "1025 layers, over 1024", id="too-many-layers",
        ),
        pytest.param(
            d.manifest(CONFIG, {**LAYER, "size": -1}),
            d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="negative-size",
        ),
        pytest.param(
            d.manifest(CONFIG, {**LAYER, "size": 1 << 63}),
            d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="huge-size",
        ),
        pytest.param(
            d.manifest(CONFIG, {**LAYER, "size": 1.5}),
            d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="half-a-byte",
        ),
        pytest.param(
            d.manifest(CONFIG, LAYER, config=None),
            d.OCI_MANIFEST, errors.CorruptImage, "no config or no layers", id="no-config",
        ),
        pytest.param(
            d.manifest(CONFIG, layers=None),
            d.OCI_MANIFEST, errors.CorruptImage, "no config or no layers", id="no-layers",
        ),
        pytest.param(
            d.index(manifests=None),
            d.OCI_INDEX, errors.CorruptImage, "the index has no manifests", id="empty-index",
        ),
        pytest.param(
            d.manifest(CONFIG, LAYER, manifests=[named(d.AMD64)]),
            d.OCI_MANIFEST, errors.CorruptImage, "an index and a manifest", id="both-by-fields",
        ),
        pytest.param(
            MANIFEST, d.OCI_INDEX, errors.CorruptImage, "an index and a manifest",
            id="both-by-media-types",
        ),
        pytest.param(
            d.index(named(d.AMD64), mediaType=None), d.DOCKER_MANIFEST,
            errors.CorruptImage, "an index and a manifest", id="both-by-type-and-field",
        ),
        pytest.param(
            d.index(named({"os": "\x1b[2J\n" * 99, "architecture": "\u202e" * 99_999})),
            d.OCI_INDEX, errors.ImageNotFound, "there are: ", id="hostile-platform",
        ),
        pytest.param(
            d.index(*(named({"os": f"os{n}", "architecture": "x" * 99}) for n in range(999))),
            d.OCI_INDEX, errors.ImageNotFound, "there are: os0/xxx", id="very-many-platforms",
        ),
        pytest.param(b"", d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="empty"),
        pytest.param(b"[]", d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="list"),
        pytest.param(b"{}", d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="no-schema"),
        pytest.param(b"\xff", d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="no-utf-8"),
        pytest.param(
            b'{"schemaVersion": ' + b"9" * 9999 + b"}",
            d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="huge-number",
        ),
        pytest.param(
            b'{"x": ' + b"[" * 1_000_000, d.OCI_MANIFEST, errors.CorruptImage, "malformed",
            id="deep-list",
        ),
        pytest.param(
            b'{"schemaVersion": 2, "x": ' + b'{"x": ' * 500_000,
            d.OCI_MANIFEST, errors.CorruptImage, "malformed", id="deep-object",
        ),
    ],
)  # fmt: skip  # one row, one case: the formatter would make each a page
def test_what_is_no_image_is_refused_in_one_clear_line(
    data: bytes, media_type: str, kind: type[errors.ClipError], match: str
) -> None:
    refused(kind, match, data, media_type)


def test_the_config_gives_each_layer_its_diff_id_in_order() -> None:
    manifest = parse(d.manifest(CONFIG, LAYER, d.described(b"2", d.OCI_LAYER)))
    assert isinstance(manifest, Manifest)
    layers = parse_config(d.config(d.digest(b"a"), d.digest(b"b")), manifest, of="the image")
    assert [one.diff_id for one in layers] == [d.digest(b"a"), d.digest(b"b")]
    assert [one.digest for one in layers] == [d.digest(b"layer"), d.digest(b"2")]
    assert layers[0].cache_key == d.digest(b"layer").replace(":", "_")


@pytest.mark.parametrize(
    ("config", "kind", "match"),
    [
        pytest.param(d.config(), errors.CorruptImage, "has 1 layers, the config 0", id="too-few"),
        pytest.param(
            d.config(*[d.digest(b"")] * 2), errors.CorruptImage, "the config 2 diff_ids", id="more"
        ),
        pytest.param(d.config("md5:x"), errors.UnsupportedImage, "a diff_id: 'md5:x'", id="md5"),
        pytest.param(b"{}", errors.CorruptImage, "malformed", id="no-rootfs"),
        pytest.param(b'{"rootfs":' + b"[" * 99_999, errors.CorruptImage, "malformed", id="deep"),
    ],
)
def test_a_config_that_does_not_fit_its_manifest_is_refused(
    config: bytes, kind: type[errors.ClipError], match: str
) -> None:
    manifest = parse(MANIFEST)
    assert isinstance(manifest, Manifest)
    with pytest.raises(kind, match=match):
        parse_config(config, manifest, of="the image")


def test_history_may_be_longer_than_the_layers() -> None:
    manifest = parse(MANIFEST)
    assert isinstance(manifest, Manifest)
    whole = {**json.loads(d.config(d.digest(b"tar"))), "history": [{"empty_layer": True}] * 5}
    assert len(parse_config(json.dumps(whole).encode(), manifest, of="the image")) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mediaType", "digest", "size", "platform", "os", "x"]), inner
        )
    ),
    max_leaves=8,
)
FIELDS = ["schemaVersion", "mediaType", "manifests", "config", "layers", "artifactType"]


@settings(deadline=None)
@given(
    base=st.sampled_from([MANIFEST, d.index(named(d.AMD64))]),
    field=st.sampled_from(FIELDS),
    value=JSON,
    media_type=st.sampled_from([d.OCI_MANIFEST, d.OCI_INDEX, ""]),
)
def test_whatever_a_document_says_it_is_an_image_or_a_named_error(
    base: bytes, field: str, value: object, media_type: str
) -> None:
    data = json.dumps({**json.loads(base), field: value}).encode()
    with contextlib.suppress(errors.ClipError):
        parse(data, media_type)


TITLE, UNPACK = "org.opencontainers.image.title", "io.deis.oras.content.unpack"
EMPTY_CONFIG = d.described(b"{}", "application/vnd.oci.empty.v1+json")
WEIGHTS = "application/vnd.example.weights"


def layers_of_artifact(*layers: d.Described) -> tuple[Layer, ...]:
    document = d.manifest(EMPTY_CONFIG, *layers, artifactType="application/vnd.example")
    found = parse(document)
    assert isinstance(found, Manifest)
    assert not found.is_image
    return artifact_layers(found)


@pytest.mark.parametrize(
    ("media_type", "annotations", "raw_path"),
    [
        pytest.param(WEIGHTS, {TITLE: "model.bin"}, "model.bin", id="a-titled-file"),
        pytest.param(WEIGHTS, {TITLE: "a/b.bin"}, "a/b.bin", id="in-a-folder"),
        pytest.param(WEIGHTS, {}, d.digest(b"blob").replace(":", "_"), id="without-a-title"),
        pytest.param(d.OCI_LAYER, {TITLE: "f"}, "f", id="a-title-beats-the-layer-type"),
        pytest.param(d.OCI_LAYER, {TITLE: "f", UNPACK: "true"}, None, id="a-packed-folder"),
        pytest.param(d.OCI_LAYER, {TITLE: "f", UNPACK: "false"}, "f", id="not-packed"),
        pytest.param(d.OCI_LAYER, {}, None, id="a-tar"),
        pytest.param(WEIGHTS, {TITLE: "f", UNPACK: "true"}, "f", id="packed-but-no-layer-type"),
    ],
)
def test_a_layer_of_an_artifact_is_one_file_or_a_tar(
    media_type: str, annotations: dict[str, str], raw_path: str | None
) -> None:
    (layer,) = layers_of_artifact(d.described(b"blob", media_type, annotations=annotations))
    assert layer.raw_path == raw_path
    assert layer.diff_id == (d.digest(b"blob") if raw_path is not None else None)
    assert layer.cache_key.endswith(".raw") == (raw_path is not None)


def test_a_titled_layer_of_an_image_is_a_file_too() -> None:
    document = d.manifest(CONFIG, d.described(b"blob", WEIGHTS, annotations={TITLE: "f"}))
    found = parse(document)
    assert isinstance(found, Manifest)
    (layer,) = parse_config(d.config(d.digest(b"blob")), found, of="app")
    assert (layer.raw_path, layer.diff_id) == ("f", d.digest(b"blob"))
