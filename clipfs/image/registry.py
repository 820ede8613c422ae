"""The registry's protocol: a reference becomes an image; a layer, the place of its blob.

Every document is checked against the digest that named it; a tag's own answer names its
digest. Credentials go to the registry's host and its token server, nowhere else.

Not here: the bytes of layers (`clipfs.layer.download`); mirrors, later.
Source: OCI distribution specification, "Pull"; distribution, "Token Authentication
Specification" and "OAuth2 Token Authentication".
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import httpx

from clipfs import errors
from clipfs.image import auth
from clipfs.image.credentials import Credentials, RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.http import Answer, Wire, refusal, same_origin
from clipfs.image.manifest import (
    ACCEPT,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Manifest,
    parse_config,
    parse_document,
)
from clipfs.image.model import BlobSource, Image, Layer
from clipfs.image.platform import Platform
from clipfs.image.reference import DOCKER_HUB, DOCKER_HUB_HOST, Reference
from clipfs.image.retry import RETRY, RetryPolicy

MAX_INDEX_DEPTH = 3
"""Indexes in indexes: the specification allows them, nobody nests deeper."""

PROBE_BYTES = 1 << 16
"""Of the answer to a probe only its error is read, and few errors are longer."""


class Registry:
    """Registries, with the credentials of one caller. Open it with `Registry.open`."""

    def __init__(self, wire: Wire, config: RegistryConfig) -> None:
        self.retry = wire.retry
        self._wire = wire
        self._config = config
        self._authorization: dict[tuple[str, str], str] = {}  # (host, repository) -> header

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        config: RegistryConfig,
        plain_http: frozenset[str] = frozenset(),
        ca_pem: str = "",
        retry: RetryPolicy = RETRY,
    ) -> AsyncIterator[Self]:
        """plain_http  hosts, or host:port, that are spoken to without TLS
        ca_pem      CAs that are trusted beside the node's own
        """
        async with Wire.open(plain_http=plain_http, ca_pem=ca_pem, retry=retry) as wire:
            yield cls(wire, config)

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        """The image that reference names now, for platform.

        Raises  ImageNotFound, Unauthenticated, AccessDenied, RegistryUnavailable, CorruptImage,
                UnsupportedImage; each names the image
        """
        of = str(reference)
        data, media_type, digest = await self._document(
            reference, "manifests", reference.version, reference.digest
        )
        for _ in range(MAX_INDEX_DEPTH + 1):
            found = parse_document(data, media_type=media_type, of=of, wanted=platform)
            if isinstance(found, Manifest):
                config = await self._child(reference, "blobs", found.config)
                layers = parse_config(config, found, of=of)
                return Image(reference=reference, digest=digest, layers=layers)
            data = await self._child(reference, "manifests", found)
            media_type, digest = found.media_type, found.digest
        raise errors.CorruptImage(f"{of}: indexes are nested over {MAX_INDEX_DEPTH} deep")

    async def blob_source(self, reference: Reference, layer: Layer) -> BlobSource:
        """Where layer's blob can be read with one GET; nothing of it is downloaded here."""
        answer = await self._authorised(
            reference, "blobs", layer.digest, {"Range": "bytes=0-0"}, limit_bytes=PROBE_BYTES
        )
        is_empty = answer.status == 416 and layer.size == 0  # it has no first byte to ask for
        if answer.status not in (200, 206) and not is_empty:
            raise refusal(str(reference), answer)
        return BlobSource(
            url=str(answer.request.url), headers=answer.authorization, ca_pem=self._wire.ca_pem
        )

    async def _child(self, reference: Reference, kind: str, child: Descriptor) -> bytes:
        data, _, _ = await self._document(reference, kind, child.digest, child.digest)
        if len(data) != child.size:
            raise errors.CorruptImage(
                f"{reference}: {child.digest} has {len(data)} bytes, its parent says {child.size}"
            )
        return data

    async def _document(
        self, reference: Reference, kind: str, version: str, expected: Digest | None
    ) -> tuple[bytes, str, Digest]:
        """Body, media type and digest; CorruptImage if it is not the one that was asked for."""
        answer = await self._authorised(reference, kind, version, {"Accept": ACCEPT})
        if answer.status != 200:
            raise refusal(str(reference), answer)
        if len(answer.body) > MAX_DOCUMENT_BYTES:
            raise errors.CorruptImage(
                f"{reference}: {version} is a document over {MAX_DOCUMENT_BYTES} bytes"
            )
        digest = Digest("sha256:" + hashlib.sha256(answer.body).hexdigest())
        stated = expected or answer.headers.get("Docker-Content-Digest")
        if stated and stated != digest:
            raise errors.CorruptImage(
                f"{reference}: what should be {stated[:80]!r} has the digest {digest}"
            )
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return answer.body, media_type, digest

    async def _authorised(
        self,
        reference: Reference,
        kind: str,
        version: str,
        headers: dict[str, str],
        *,
        limit_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> Answer:
        """GET from the registry; answers its challenge once, and no other host's."""
        of, place = str(reference), (reference.registry, reference.repository)
        host = DOCKER_HUB_HOST if reference.registry == DOCKER_HUB else reference.registry
        url = self._wire.url(host, f"/v2/{reference.repository}/{kind}/{version}")
        if place in self._authorization:
            headers = {**headers, "Authorization": self._authorization[place]}
        answer = await self._wire.get(of, url, headers, limit_bytes=limit_bytes)
        if answer.status != 401 or not same_origin(answer.request.url, url):
            return answer
        value = await self._answer(reference, answer)
        if value is None:
            return answer
        self._authorization[place] = value
        headers = {**headers, "Authorization": value}
        return await self._wire.get(of, url, headers, limit_bytes=limit_bytes)

    async def _answer(self, reference: Reference, answer: Answer) -> str | None:
        """The Authorization header that answers a 401; None if we have no answer."""
        credentials = self._config.for_repository(reference.registry, reference.repository)
        for header in answer.headers.get_list("WWW-Authenticate"):
            for challenge in auth.parse_challenges(header):
                if challenge.scheme == "bearer":
                    return await self._token(reference, challenge, credentials)
                if challenge.scheme == "basic" and credentials is not None:
                    return auth.basic(credentials)
        return None

    async def _token(
        self, reference: Reference, challenge: auth.Challenge, credentials: Credentials | None
    ) -> str:
        realm = self._realm(reference, challenge)
        of = f"{reference}: token server {realm.netloc.decode()}"
        asked = {"scope": f"repository:{reference.repository}:pull"}
        asked |= {k: v for k, v in challenge.parameters.items() if k in ("scope", "service")}
        if credentials is not None and credentials.identity_token:
            form = auth.refresh(credentials.identity_token)
            answer = await self._wire.post(of, realm, {**asked, **form})
        else:
            headers = {"Authorization": auth.basic(credentials)} if credentials else {}
            answer = await self._wire.get(of, realm.copy_merge_params(asked), headers)
        if answer.status == 404:  # of the server's address: it says nothing about the image
            raise errors.RegistryUnavailable(f"{of}: there is none at the address (404)")
        if answer.status != 200:
            raise refusal(of, answer)
        return auth.bearer(answer.body, of=of)

    def _realm(self, reference: Reference, challenge: auth.Challenge) -> httpx.URL:
        """The token server's address; only one with TLS, or named by the administrator."""
        text = challenge.parameters.get("realm", "")
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise errors.RegistryUnavailable(
                f"{reference}: the registry's token server {text[:100]!r} is no address"
            ) from error
        if realm.scheme != "https" and not self._wire.is_plain(realm):
            raise errors.Unauthenticated(
                f"{reference}: the token server {realm.netloc.decode()[:100]!r} does not use "
                "https; to trust it, name it with --plain-http"
            )
        return realm
