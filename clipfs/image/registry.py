"""The registry's protocol: a reference becomes an image; a layer, the place of its blob.

Every document is checked against the digest that named it; a tag's own answer names its
digest. Credentials go to the registry's host and its token server, never along a redirect.

Not here: the bytes of layers (`clipfs.layer.download`); retries, mirrors and own CAs, later.
Source: OCI distribution specification, "Pull".
"""

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpx
import structlog

from clipfs import errors
from clipfs.image import auth
from clipfs.image.credentials import Credentials, RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.manifest import (
    ACCEPT,
    MAX_DOCUMENT_BYTES,
    Child,
    Manifest,
    parse_config,
    parse_document,
)
from clipfs.image.model import BlobSource, Image, Layer
from clipfs.image.platform import Platform
from clipfs.image.reference import DOCKER_HUB, Reference

log = structlog.get_logger()

USER_AGENT = "clip-csi/0.1"
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
MAX_INDEX_DEPTH = 3
"""Indexes in indexes: the specification allows them, nobody nests deeper."""

MAX_REDIRECTS = 5
_HUB_HOST = "registry-1.docker.io"
_REDIRECTS = (301, 302, 303, 307, 308)


class Registry:
    """Registries, with the credentials of one caller. Open it with `Registry.open`."""

    def __init__(
        self, client: httpx.AsyncClient, config: RegistryConfig, plain_http: frozenset[str]
    ) -> None:
        self._client = client
        self._config = config
        self._plain_http = plain_http
        self._authorization: dict[tuple[str, str], str] = {}  # (host, repository) -> header

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, config: RegistryConfig, plain_http: frozenset[str] = frozenset()
    ) -> AsyncIterator[Self]:
        """plain_http  hosts, or host:port, that are spoken to without TLS"""
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        headers = {"User-Agent": USER_AGENT}
        async with httpx.AsyncClient(timeout=timeout, headers=headers) as client:
            yield cls(client, config, plain_http)

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        """The image that reference names now, for platform.

        Raises  ImageNotFound, Unauthenticated, AccessDenied, RegistryUnavailable, CorruptImage,
                UnsupportedImage; each names the image
        """
        of = str(reference)
        data, media_type, digest = await self._document(
            reference, "manifests", reference.version, reference.digest
        )
        for _ in range(MAX_INDEX_DEPTH):
            found = parse_document(data, media_type=media_type, of=of, wanted=platform)
            if isinstance(found, Manifest):
                layers = await self._layers(reference, found)
                return Image(reference=reference, digest=digest, layers=layers)
            data = await self._child(reference, "manifests", found)
            media_type, digest = found.media_type, found.digest
        raise errors.UnsupportedImage(f"{of}: indexes are nested over {MAX_INDEX_DEPTH} deep")

    async def blob_source(self, reference: Reference, layer: Layer) -> BlobSource:
        """Where layer's blob can be read with one GET; nothing of it is downloaded here."""
        url = self._url(reference, "blobs", layer.digest)
        headers = {"Range": "bytes=0-0"}  # of a registry without ranges the body is not read
        response = await self._authorised(reference, url, headers)
        if response.status_code in (200, 206):
            value = self._authorization.get((reference.registry, reference.repository))
            return BlobSource(url=url, headers={"Authorization": value} if value else {})
        for _ in range(MAX_REDIRECTS):
            if response.status_code not in _REDIRECTS:
                break
            url = _target(url, response, str(reference))
            response = await self._get(str(reference), url, headers)
        if response.status_code not in (200, 206):
            raise _refusal(reference, response)
        return BlobSource(url=url, headers={})

    async def _layers(self, reference: Reference, manifest: Manifest) -> tuple[Layer, ...]:
        config = await self._child(reference, "blobs", manifest.config)
        return parse_config(config, manifest, of=str(reference))

    async def _child(self, reference: Reference, kind: str, child: Child) -> bytes:
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
        url = self._url(reference, kind, version)
        response = await self._authorised(reference, url, {"Accept": ACCEPT})
        for _ in range(MAX_REDIRECTS):
            if response.status_code not in _REDIRECTS:
                break
            url = _target(url, response, str(reference))
            response = await self._get(str(reference), url, {"Accept": ACCEPT})
        if response.status_code != 200:
            raise _refusal(reference, response)
        data = response.content
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        stated = expected or response.headers.get("Docker-Content-Digest")
        if stated and stated != digest:
            raise errors.CorruptImage(
                f"{reference}: asked for {stated[:80]}, the registry sent {digest}"
            )
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        return data, media_type, digest

    async def _authorised(
        self, reference: Reference, url: str, headers: dict[str, str]
    ) -> httpx.Response:
        """GET from the registry's own host; answers its challenge once."""
        place = (reference.registry, reference.repository)
        known = self._authorization.get(place)
        if known is not None:
            headers = {**headers, "Authorization": known}
        response = await self._get(str(reference), url, headers)
        if response.status_code != 401:
            return response
        answer = await self._answer(reference, response)
        if answer is None:
            return response
        self._authorization[place] = answer
        headers = {**headers, "Authorization": answer}
        return await self._get(str(reference), url, headers)

    async def _answer(self, reference: Reference, response: httpx.Response) -> str | None:
        """The Authorization header that answers a 401; None if we have no answer."""
        credentials = self._config.for_repository(reference.registry, reference.repository)
        for header in response.headers.get_list("WWW-Authenticate"):
            challenge = auth.parse_challenge(header)
            if challenge is None:
                continue
            if challenge.scheme == "basic" and credentials is not None:
                return auth.basic(credentials)
            if challenge.scheme == "bearer":
                return await self._token(reference, challenge, credentials)
        return None

    async def _token(
        self, reference: Reference, challenge: auth.Challenge, credentials: Credentials | None
    ) -> str:
        realm = challenge.parameters.get("realm", "")
        of = f"{reference}: token server {urlsplit(realm).netloc[:100]}"
        secure = realm.startswith("https://") or self._is_plain(urlsplit(realm).netloc)
        if not secure or not urlsplit(realm).netloc:
            raise errors.Unauthenticated(
                f"{of} does not use https; to trust it, name it with --plain-http"
            )
        scope = challenge.parameters.get("scope", f"repository:{reference.repository}:pull")
        parameters = {"scope": scope}
        if service := challenge.parameters.get("service"):
            parameters["service"] = service
        if credentials is not None and credentials.identity_token:
            form = {
                **parameters,
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "clip-csi",
            }
            response = await self._send(of, self._client.build_request("POST", realm, data=form))
        else:
            headers = {"Authorization": auth.basic(credentials)} if credentials else {}
            request = self._client.build_request(
                "GET", httpx.URL(realm).copy_merge_params(parameters), headers=headers
            )
            response = await self._send(of, request)
        if response.status_code != 200:
            raise _refusal(reference, response)
        return auth.bearer(response.content, of=of)

    async def _get(self, of: str, url: str, headers: dict[str, str]) -> httpx.Response:
        return await self._send(of, self._client.build_request("GET", url, headers=headers))

    async def _send(self, of: str, request: httpx.Request) -> httpx.Response:
        """The response with its body, at most MAX_DOCUMENT_BYTES; of a range only the head."""
        try:
            response = await self._client.send(request, stream=True)
            try:
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_DOCUMENT_BYTES:
                        raise errors.CorruptImage(
                            f"{of}: an answer over {MAX_DOCUMENT_BYTES} bytes"
                        )
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(of, request, error) from error
        return httpx.Response(
            response.status_code, headers=_plain_headers(response), content=bytes(body)
        )

    def _unavailable(
        self, of: str, request: httpx.Request, error: Exception
    ) -> errors.RegistryUnavailable:
        host = request.url.netloc.decode()
        reason = str(error) or type(error).__name__
        hint = ""
        if request.url.scheme == "https" and re.search("WRONG_VERSION|record layer", reason):
            hint = f"; if it speaks plain HTTP, say --plain-http {host}"
        return errors.RegistryUnavailable(f"{of}: no answer from {host}: {reason}{hint}")

    def _url(self, reference: Reference, kind: str, version: str) -> str:
        host = _HUB_HOST if reference.registry == DOCKER_HUB else reference.registry
        scheme = "http" if self._is_plain(host) else "https"
        return f"{scheme}://{host}/v2/{reference.repository}/{kind}/{version}"

    def _is_plain(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return host in self._plain_http or name in self._plain_http


def _plain_headers(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """Without what says how the body was coded on the wire: it is decoded by now."""
    skip = (b"content-encoding", b"content-length", b"transfer-encoding")
    return [(name, value) for name, value in response.headers.raw if name.lower() not in skip]


def _target(url: str, response: httpx.Response, of: str) -> str:
    target = urljoin(url, response.headers.get("Location", ""))
    downgrade = url.startswith("https://") and not target.startswith("https://")
    if not response.headers.get("Location") or downgrade:
        raise errors.RegistryUnavailable(
            f"{of}: a redirect to {urlsplit(target).netloc[:100]} that is not followed"
        )
    return str(target)


def _refusal(reference: Reference, response: httpx.Response) -> errors.ClipError:
    """The error for a status that is not success, with the registry's own words."""
    status, words = response.status_code, _words(response.content)
    detail = f" ({words})" if words else ""
    if status == 401:
        return errors.Unauthenticated(
            f"{reference}: the registry wants credentials, or other ones{detail}; there may also "
            "be no such repository"
        )
    if status == 403:
        return errors.AccessDenied(f"{reference}: the registry refuses{detail}")
    if status == 404:
        return errors.ImageNotFound(f"{reference}: no such image in the registry{detail}")
    if status == 429 or status >= 500:
        return errors.RegistryUnavailable(
            f"{reference}: the registry answers {status}{detail}; try again later"
        )
    return errors.RegistryUnavailable(f"{reference}: the registry answers {status}{detail}")


def _words(body: bytes) -> str:
    """The registry's error message, short and printable: it ends up in events and logs."""
    try:
        first = httpx.Response(200, content=body).json()["errors"][0]
        text = str(first.get("message") or first.get("code") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return ""
    return "".join(one for one in text[:200] if one.isprintable())
