"""A registry that holds what a test puts into it, and pulls from it.

The image `app` is good as it comes: `app:1` is its manifest, `app:all` an index of it.
"""

from contextlib import AbstractAsyncContextManager

import pytest

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource, Image, Layer
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.registry import Registry
from clipfs.image.retry import RetryPolicy
from tests.image import documents as d
from tests.support.web import Asked, Reply, Responder, WebServer, run_web

CONFIG = d.config(d.digest(b"tar"))
LAYER = d.described(b"layer", d.OCI_LAYER)
MANIFEST = d.manifest(d.described(CONFIG, d.OCI_CONFIG), LAYER)
INDEX = d.index(d.described(MANIFEST, d.OCI_MANIFEST, platform=d.AMD64))
BLOB = Layer(
    digest=Digest(d.digest(b"layer")),
    size=5,
    media_type=d.OCI_LAYER,
    diff_id=Digest(d.digest(b"tar")),
)
AT_ONCE = RetryPolicy(first_s=0)
"""As the product asks again, but for the waiting."""

PASSWORD = "secret-word"
BABBLE = "\x1b[2J\n\x07\x9b\u202e\u2028" + "x" * 100_000


class Shelf:
    """A registry without rules: what it holds by path, good or bad."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}

    def __call__(self, asked: Asked) -> Reply:
        return self.replies.get(asked.path, Reply(404))

    def manifest(self, data: bytes, media_type: str, *versions: str, **headers: str) -> None:
        for version in versions or (d.digest(data),):
            reply = Reply(headers={"Content-Type": media_type, **headers}, body=data)
            self.replies[f"/v2/app/manifests/{version}"] = reply

    def blob(self, data: bytes) -> None:
        self.replies[f"/v2/app/blobs/{d.digest(data)}"] = Reply(body=data)


def shelf() -> Shelf:
    """With the one good image."""
    made = Shelf()
    made.manifest(MANIFEST, d.OCI_MANIFEST, "1", d.digest(MANIFEST))
    made.manifest(INDEX, d.OCI_INDEX, "all", d.digest(INDEX))
    made.blob(CONFIG)
    made.blob(b"layer")
    return made


def client(web: WebServer, *, login: bool = False) -> AbstractAsyncContextManager[Registry]:
    config = RegistryConfig.empty()
    if login:
        config = RegistryConfig.single(web.address, "me", PASSWORD)
    return Registry.open(config=config, plain_http=frozenset([web.address]), retry=AT_ONCE)


async def resolve(web: WebServer, version: str = ":1", *, login: bool = False) -> Image:
    async with client(web, login=login) as registry:
        reference = parse_reference(f"{web.address}/app{version}")
        return await registry.resolve(reference, Platform("linux", "amd64"))


async def place_of_blob(web: WebServer, *, login: bool = False) -> BlobSource:
    async with client(web, login=login) as registry:
        return await registry.blob_source(parse_reference(f"{web.address}/app"), BLOB)


async def failure(respond: Responder, version: str = ":1", *, login: bool = False) -> str:
    """Code and text of the error that a pull ends with: short, printable, without a secret."""
    with run_web(respond) as web:
        with pytest.raises(errors.ClipError) as caught:
            await resolve(web, version, login=login)
        text = str(caught.value)
        assert text.startswith(f"{web.address}/app")
    assert text.isprintable()
    assert len(text) < 800
    assert PASSWORD not in text
    return f"{caught.value.code}: {text}"
