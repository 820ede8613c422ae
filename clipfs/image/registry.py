"""The registry's protocol: a reference becomes an image; a layer, the place of its blob.

Not here: one document, checked (`clipfs.image.document`); which hosts are asked
(`clipfs.image.hosts`), with which credentials (`clipfs.image.session`); the bytes of layers
(`clipfs.layer.blob.download`).
Source: OCI distribution specification, "Pull".
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Self

from clipfs import errors
from clipfs.image.credentials import Credentials, RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.document import fetched, proved
from clipfs.image.driver import CredentialsSocket, held_credentials
from clipfs.image.failures import refusal
from clipfs.image.held import HeldCredentials
from clipfs.image.hosts import Hosts
from clipfs.image.http import Wire
from clipfs.image.manifest import (
    Descriptor,
    Manifest,
    artifact_layers,
    parse_config,
    parse_document,
)
from clipfs.image.mirrors import NO_MIRRORS, Mirrors
from clipfs.image.model import BlobSource, Image, Layer
from clipfs.image.platform import Platform
from clipfs.image.proxy import proxy_for
from clipfs.image.reference import Reference
from clipfs.image.retry import RETRY, RetryPolicy
from clipfs.image.session import Session
from clipfs.image.stated_size import check_size

MAX_INDEX_DEPTH = 3
"""Indexes in indexes: the specification allows them, nobody nests deeper."""

PROBE_BYTES = 1 << 16
"""Of the answer to a probe only its error is read, and few errors are longer."""


class Registry:
    """Registries, with the credentials of one caller. Open it with `Registry.open`."""

    def __init__(self, wire: Wire, held: HeldCredentials, mirrors: Mirrors) -> None:
        self.retry = wire.retry
        self._hosts = Hosts(wire, held, mirrors)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        config: RegistryConfig,
        plain_http: frozenset[str] = frozenset(),
        ca_pem: str = "",
        mirrors: Mirrors = NO_MIRRORS,
        retry: RetryPolicy = RETRY,
        driver: CredentialsSocket | None = None,
    ) -> AsyncIterator[Self]:
        """plain_http  hosts, or host:port, that are spoken to without TLS
        ca_pem      CAs that are trusted beside the node's own
        driver      who has other credentials once config's are refused
        """
        async with (
            Wire.open(plain_http=plain_http, ca_pem=ca_pem, retry=retry) as wire,
            held_credentials(config, driver) as held,
        ):
            yield cls(wire, held, mirrors)

    async def resolve(self, reference: Reference, platform: Platform) -> Image:
        """The image that reference names now, for platform.

        Raises  ImageNotFound, Unauthenticated, AccessDenied, RegistryUnavailable, CorruptImage,
                UnsupportedImage; each names the image
        """
        return (await self.resolve_named(reference, platform))[1]

    async def resolve_named(
        self, reference: Reference, platform: Platform, digest: Digest | None = None
    ) -> tuple[Digest, Image]:
        """As `resolve`; before the image the digest that led to it, of an index perhaps.

        digest  take this manifest of reference's repository instead
        """
        of, wanted = str(reference), digest or reference.digest
        data, media_type, named = await self._document(
            reference, "manifests", wanted or reference.version, wanted, platform
        )
        digest = named
        for _ in range(MAX_INDEX_DEPTH + 1):
            found = parse_document(data, media_type=media_type, of=of, wanted=platform)
            if isinstance(found, Manifest):
                layers = await self._layers(reference, found)
                return named, Image(reference=reference, digest=digest, layers=layers)
            data = await self._child(reference, "manifests", found)
            media_type, digest = found.media_type, found.digest
        raise errors.CorruptImage(f"{of}: indexes are nested over {MAX_INDEX_DEPTH} deep")

    async def prove(self, reference: Reference, digest: Digest | None = None) -> Digest:
        """The digest that reference names, which the registry lets this caller have.

        digest  ask for this manifest of reference's repository instead; errors do not tell it
        Raises  as resolve
        """
        wanted = digest or reference.digest

        async def ask(session: Session, patient: bool) -> Digest:
            version = wanted or reference.version
            return await proved(session, reference, version, wanted, patient=patient)

        sessions = self._hosts.of(reference, by_digest=wanted is not None)
        return await self._hosts.first_good(reference, sessions, ask)

    def credentials_for(self, reference: Reference) -> dict[str, Credentials | None]:
        """What each host that may be asked for reference would be shown, by its address."""
        sessions = self._hosts.all_of(reference)
        return {str(one.base): one.credentials(reference.repository) for one in sessions}

    def blob_hosts(self, reference: Reference) -> list[str]:
        """The hosts that blobs are asked for at, in their order, as BlobSource.host names them."""
        return [str(session.base) for session in self._hosts.of(reference, by_digest=True)]

    async def blob_source(
        self, reference: Reference, layer: Layer, *, without: Collection[str] = ()
    ) -> BlobSource:
        """Where layer's blob can be read with one GET; nothing of it is downloaded here.

        without  hosts that are not asked, as long as there is another one
        Raises   as resolve; CorruptImage if the blob is not as large as the manifest says
        """

        async def ask(session: Session, patient: bool) -> BlobSource:
            answer = await session.ask(
                "GET",
                reference,
                "blobs",
                layer.digest,
                {"Range": "bytes=0-0"},
                limit_bytes=PROBE_BYTES,
                patient=patient,
            )
            of, part = session.names(reference), f"layer {layer.digest}"
            check_size(
                f"{of}: {part}",
                answer.status,
                answer.headers.get,
                manifest_bytes=layer.size,
                stated_by="the registry",
            )
            is_empty = answer.status == 416 and layer.size == 0  # it has no first byte to ask for
            if answer.status not in (200, 206) and not is_empty:
                raise refusal(of, answer.status, answer.body, part=part, shown=answer.shown)
            return BlobSource(
                url=str(answer.request.url),
                headers=answer.authorization,
                ca_pem=session.wire.ca_pem,
                proxy=proxy_for(str(answer.request.url)),
                host=str(session.base),
            )

        sessions = self._hosts.of(reference, by_digest=True)
        wanted = [session for session in sessions if str(session.base) not in without]
        return await self._hosts.first_good(reference, wanted or sessions[-1:], ask)

    def set_back(self, host: str) -> None:
        """For a while, ask other hosts than BlobSource.host before this one."""
        self._hosts.set_back(host)

    async def _layers(self, reference: Reference, manifest: Manifest) -> tuple[Layer, ...]:
        if not manifest.is_image:
            return artifact_layers(manifest)
        config = await self._child(reference, "blobs", manifest.config)
        return parse_config(config, manifest, of=str(reference))

    async def _child(self, reference: Reference, kind: str, child: Descriptor) -> bytes:
        part = f"{'config' if kind == 'blobs' else 'manifest'} {child.digest}"
        data, _, _ = await self._document(reference, kind, child.digest, child.digest, part=part)
        if len(data) != child.size:
            raise errors.CorruptImage(
                f"{reference}: {child.digest} has {len(data)} bytes, its parent says {child.size}"
            )
        return data

    async def _document(
        self,
        reference: Reference,
        kind: str,
        version: str,
        expected: Digest | None,
        platform: Platform | None = None,
        *,
        part: str = "",
    ) -> tuple[bytes, str, Digest]:
        """As `fetched`, from the first host that has it.

        platform  of what a tag names, which no digest tells from rubbish: it must be readable
        """

        async def ask(session: Session, patient: bool) -> tuple[bytes, str, Digest]:
            data, media_type, digest = await fetched(
                session, reference, kind, version, expected, part=part, patient=patient
            )
            if expected is None and platform is not None:
                of = session.names(reference)
                parse_document(data, media_type=media_type, of=of, wanted=platform)
            return data, media_type, digest

        sessions = self._hosts.of(reference, by_digest=expected is not None)
        return await self._hosts.first_good(reference, sessions, ask)
