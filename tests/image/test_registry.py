"""The client against a real registry: each way in, each kind of document, each refusal."""

import hashlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from clipfs.image.tls import load_ca_file
from tests.image import documents as d
from tests.support import images
from tests.support.registry import (
    Certificate,
    RegistryServer,
    make_certificate,
    run_registry,
)
from tests.support.tokens import TokenServer, run_token_server

PASSWORD = "secret-word"
AMD64 = Platform("linux", "amd64")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("image")
    layers = []
    for number in "12":
        (home / number).mkdir()
        (home / number / "file").write_text(number)
        layers.append(images.layer(home / number, home / f"{number}.tar"))
    images.write_layout(home / "oci", layers)
    return home / "oci"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def copy(layout: Path, reference: str, *options: str) -> None:
    """skopeo's push, with options of the test's."""
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options,
         f"oci:{layout}:x", f"docker://{reference}"],
        check=True,
    )  # fmt: skip  # a command line


def put(registry: RegistryServer, name: str, tag: str, data: bytes, media_type: str) -> None:
    """Push a manifest as it is."""
    url = f"http://{registry.address}/v2/{name}/manifests/{tag}"
    headers = {"Content-Type": media_type}
    request = urllib.request.Request(url, data, headers, method="PUT")
    with urllib.request.urlopen(request):
        pass


def get(url: str, headers: dict[str, str]) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return bytes(answer.read())


def document(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def manifest_of(layout: Path) -> bytes:
    index = json.loads((layout / "index.json").read_text())
    return document(layout, index["manifests"][0]["digest"])


def user(address: str, name: str = "me", password: str = PASSWORD) -> RegistryConfig:
    return RegistryConfig.single(address, name, password)


async def resolve(
    reference: str,
    *,
    config: RegistryConfig | None = None,
    plain: bool = True,
    platform: Platform = AMD64,
) -> Image:
    image = parse_reference(reference)
    plain_http = frozenset([image.registry.partition(":")[0]]) if plain else frozenset()
    async with Registry.open(
        config=config or RegistryConfig.empty(), plain_http=plain_http
    ) as registry:
        return await registry.resolve(image, platform)


async def test_a_tag_and_its_digest_name_the_same_image(
    registry: RegistryServer, layout: Path
) -> None:
    reference = images.push(layout, registry.address, "names:1")
    manifest = manifest_of(layout)
    by_tag = await resolve(reference)
    by_digest = await resolve(reference.removesuffix(":1") + "@" + d.digest(manifest))
    by_both = await resolve(f"{reference}@{d.digest(manifest)}")
    assert by_tag.digest == by_digest.digest == by_both.digest == d.digest(manifest)
    assert by_tag.layers == by_digest.layers == by_both.layers
    said = json.loads(manifest)
    config = json.loads(document(layout, said["config"]["digest"]))
    assert [one.digest for one in by_tag.layers] == [one["digest"] for one in said["layers"]]
    assert [one.size for one in by_tag.layers] == [one["size"] for one in said["layers"]]
    assert [one.diff_id for one in by_tag.layers] == config["rootfs"]["diff_ids"]


async def test_docker_schema_2_is_an_image_too(registry: RegistryServer, layout: Path) -> None:
    copy(layout, f"{registry.address}/docker:1", "--format", "v2s2")
    docker = await resolve(f"{registry.address}/docker:1")
    images.push(layout, registry.address, "docker:oci")
    oci = await resolve(f"{registry.address}/docker:oci")
    assert {one.media_type for one in docker.layers} == {d.DOCKER_LAYER}
    assert [one.diff_id for one in docker.layers] == [one.diff_id for one in oci.layers]
    assert docker.digest != oci.digest


@pytest.mark.parametrize("kind", [d.OCI_INDEX, d.DOCKER_LIST], ids=["oci", "docker"])
async def test_an_index_leads_to_the_image_of_the_platform(
    kind: str, registry: RegistryServer, layout: Path
) -> None:
    name = f"index-{'oci' if kind == d.OCI_INDEX else 'docker'}"
    form = ["--format", "v2s2"] if kind == d.DOCKER_LIST else []
    children = []
    for platform in (d.ARM64, d.AMD64):
        tag = platform["architecture"]
        copy(layout, f"{registry.address}/{name}:{tag}", *form)
        url = f"http://{registry.address}/v2/{name}/manifests/{tag}"
        media_type = d.DOCKER_MANIFEST if form else d.OCI_MANIFEST
        manifest = json.loads(get(url, {"Accept": media_type}))
        data = json.dumps({**manifest, "x": tag}).encode()  # two manifests, one set of layers
        put(registry, name, tag, data, media_type)
        children.append(d.described(data, media_type, platform=platform))
    index = d.index(*children, mediaType=kind)
    put(registry, name, "all", index, kind)
    for child in children:
        wanted = Platform("linux", child["platform"]["architecture"])
        for version in (":all", f"@{d.digest(index)}"):
            found = await resolve(f"{registry.address}/{name}{version}", platform=wanted)
            assert found.digest == child["digest"]
            assert len(found.layers) == 2
    with pytest.raises(errors.ImageNotFound, match="there are: linux/amd64, linux/arm64"):
        await resolve(f"{registry.address}/{name}:all", platform=Platform("linux", "s390x"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("there:no-such-tag", "manifest unknown", id="tag"),
        pytest.param("no-such-repository:1", "manifest unknown", id="repository"),
        pytest.param("there@sha256:" + "0" * 64, "manifest unknown", id="digest"),
    ],
)
async def test_what_is_not_there_is_not_found_in_the_registry_s_words(
    name: str, words: str, registry: RegistryServer, layout: Path
) -> None:
    images.push(layout, registry.address, "there:1")
    with pytest.raises(errors.ImageNotFound, match=f"no such image in the registry .{words}"):
        await resolve(f"{registry.address}/{name}")


async def test_a_layer_s_place_is_found_without_reading_the_layer(
    registry: RegistryServer, layout: Path
) -> None:
    reference = parse_reference(images.push(layout, registry.address, "blobs:1"))
    async with Registry.open(
        config=RegistryConfig.empty(), plain_http=frozenset([registry.address])
    ) as client:
        image = await client.resolve(reference, AMD64)
        source = await client.blob_source(reference, image.layers[1])
    asked = [
        one for one in registry.requests() if one[1] == source.url.partition(registry.address)[2]
    ]
    assert asked[-1][2] == 206
    blob = get(source.url, source.headers)
    assert "sha256:" + hashlib.sha256(blob).hexdigest() == image.layers[1].digest


async def test_without_plain_http_the_error_says_what_to_do_and_that_helps(
    registry: RegistryServer, layout: Path
) -> None:
    reference = images.push(layout, registry.address, "hint:1")
    with pytest.raises(errors.RegistryUnavailable, match="if it speaks plain HTTP") as caught:
        await resolve(reference, plain=False)
    hint = re.search(r"--plain-http (\S+)$", str(caught.value))
    assert hint
    async with Registry.open(
        config=RegistryConfig.empty(), plain_http=frozenset([hint[1]])
    ) as client:
        assert await client.resolve(parse_reference(reference), AMD64)


async def test_nobody_at_the_address_is_unavailable() -> None:
    with pytest.raises(
        errors.RegistryUnavailable, match=r"no answer from 127\.0\.0\.1:1: Connection refused;"
    ):
        await resolve("127.0.0.1:1/app", plain=False)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[RegistryServer]:
    """A registry that wants a name and a password, with the image `app:1`."""
    home = tmp_path_factory.mktemp("private")
    line = subprocess.run(
        ["htpasswd", "-Bbn", "me", PASSWORD], capture_output=True, text=True, check=True
    ).stdout
    (home / "htpasswd").write_text(line)
    with run_registry(home, htpasswd=home / "htpasswd") as server:
        copy(layout, f"{server.address}/app:1", "--dest-creds", f"me:{PASSWORD}")
        yield server


async def test_basic_credentials_open_a_private_registry(private: RegistryServer) -> None:
    assert await resolve(f"{private.address}/app:1", config=user(private.address))


@pytest.mark.parametrize(
    ("name", "password"),
    [("me", "wrong-word"), ("you", "wrong-word")],
    ids=["wrong-password", "wrong-name"],
)
async def test_wrong_basic_credentials_are_refused_and_not_shown(
    name: str, password: str, private: RegistryServer
) -> None:
    with pytest.raises(errors.Unauthenticated, match="wants credentials, or other") as caught:
        await resolve(f"{private.address}/app:1", config=user(private.address, name, password))
    assert password not in str(caught.value)


async def test_another_registry_s_credentials_are_not_tried(private: RegistryServer) -> None:
    with pytest.raises(errors.Unauthenticated):
        await resolve(f"{private.address}/app:1", config=user("other.example"))


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: Certificate, layout: Path
) -> Iterator[RegistryServer]:
    """A registry with TLS by a CA that nobody knows, with the image `app:1`."""
    with run_registry(tmp_path_factory.mktemp("secure"), tls=certificate) as server:
        copy(layout, f"{server.address}/app:1")
        yield server


async def test_an_unknown_ca_is_named_as_the_reason(secure: RegistryServer) -> None:
    with pytest.raises(errors.RegistryUnavailable, match="certificate verify failed") as caught:
        await resolve(f"{secure.address}/app:1", plain=False)
    assert "plain" not in str(caught.value)
    assert "_ssl.c" not in str(caught.value)
    assert "is it up" not in str(caught.value)
    assert re.search(r"if you trust its CA, .*--ca-file .*hosts\.toml", str(caught.value))


async def test_a_certificate_for_another_name_is_told_from_an_unknown_ca(
    secure: RegistryServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    address = secure.address.replace("127.0.0.1", "localhost")
    with pytest.raises(errors.RegistryUnavailable, match=r"verify failed: .*mismatch") as caught:
        await resolve(f"{address}/app:1", plain=False)
    assert "--ca-file" not in str(caught.value)
    assert str(caught.value).endswith("the registry's certificate must be valid, and for that name")


async def test_plain_http_to_a_registry_with_tls_says_so(secure: RegistryServer) -> None:
    with pytest.raises(
        errors.RegistryUnavailable, match=r"answers 400; it speaks TLS: .*plain-http"
    ):
        await resolve(f"{secure.address}/app:1", plain=True)


async def test_a_ca_that_the_node_trusts_is_trusted(
    secure: RegistryServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    assert await resolve(f"{secure.address}/app:1", plain=False)


async def test_a_ca_that_is_named_is_trusted_for_manifests_and_blobs(
    secure: RegistryServer, certificate: Certificate
) -> None:
    reference = parse_reference(f"{secure.address}/app:1")
    ca_pem = load_ca_file(certificate.cert)
    async with Registry.open(config=RegistryConfig.empty(), ca_pem=ca_pem) as client:
        image = await client.resolve(reference, AMD64)
        source = await client.blob_source(reference, image.layers[0])
    assert source.url.startswith("https://")
    assert source.ca_pem == ca_pem


@pytest.fixture(scope="module")
def tokens(certificate: Certificate) -> Iterator[TokenServer]:
    with run_token_server(
        certificate, users={"me": PASSWORD}, identity_tokens=("identity-word",)
    ) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer, layout: Path
) -> Iterator[RegistryServer]:
    """A registry that wants tokens, with `public/app:1` and `private/app:1`."""
    with run_registry(tmp_path_factory.mktemp("guarded"), token=tokens.auth) as server:
        for name in ("public", "private"):
            copy(layout, f"{server.address}/{name}/app:1", "--dest-creds", f"me:{PASSWORD}")
        yield server


async def test_a_stranger_s_token_opens_what_is_public(guarded: RegistryServer) -> None:
    assert await resolve(f"{guarded.address}/public/app:1")


async def test_a_password_is_traded_for_a_token(guarded: RegistryServer) -> None:
    assert await resolve(f"{guarded.address}/private/app:1", config=user(guarded.address))


async def test_an_identity_token_is_traded_for_a_token(guarded: RegistryServer) -> None:
    auths = {guarded.address: {"username": "me", "identitytoken": "identity-word"}}
    config = RegistryConfig.from_json(json.dumps({"auths": auths}).encode(), source="test")
    assert await resolve(f"{guarded.address}/private/app:1", config=config)


async def test_one_token_serves_the_manifest_the_config_and_the_blobs(
    guarded: RegistryServer, tokens: TokenServer
) -> None:
    reference = parse_reference(f"{guarded.address}/private/app:1")
    before = len(tokens.web.asked)
    async with Registry.open(
        config=user(guarded.address), plain_http=frozenset(["127.0.0.1"])
    ) as client:
        image = await client.resolve(reference, AMD64)
        source = await client.blob_source(reference, image.layers[0])
    assert len(tokens.web.asked) - before == 1
    assert source.headers["Authorization"].startswith("Bearer ")
    assert d.digest(get(source.url, source.headers)) == image.layers[0].digest


@pytest.mark.parametrize(
    ("name", "config", "kind", "words"),
    [
        pytest.param("private/app:1", None, errors.Unauthenticated, "authentication required",
                     id="stranger"),
        pytest.param("private/app:1", ("me", "bad"), errors.Unauthenticated, "wrong password",
                     id="wrong-password"),
        pytest.param("public/app:1", ("me", "bad"), errors.Unauthenticated, "wrong password",
                     id="wrong-password-for-a-public-image"),
        pytest.param("denied/app:1", ("me", PASSWORD), errors.AccessDenied, "not for you",
                     id="denied"),
        pytest.param("public/none:1", None, errors.ImageNotFound, "manifest unknown", id="none"),
    ],
)  # fmt: skip  # one row, one case
async def test_who_may_not_have_a_token_is_told_why(
    name: str,
    config: tuple[str, str] | None,
    kind: type[errors.ClipError],
    words: str,
    guarded: RegistryServer,
) -> None:
    with pytest.raises(kind, match=words) as caught:
        await resolve(
            f"{guarded.address}/{name}", config=user(guarded.address, *config) if config else None
        )
    assert f"{guarded.address}/{name}" in str(caught.value)
    assert PASSWORD not in str(caught.value)
