"""One host that serves a registry's images, asked by one caller: its challenges, our answers.

    answer = await session.ask(
        "GET", reference, "manifests", "latest", {"Accept": ...}, patient=True
    )

Credentials go to the host that they are for and to its token server, nowhere else: a mirror
gets those that the caller has for the mirror. What is refused is asked once more if others can
be had meanwhile (`clipfs.image.held`).

Source: OCI distribution specification, "Pull"; distribution, "Token Authentication
Specification" and "OAuth2 Token Authentication"; containerd for `ns`.
"""

from dataclasses import dataclass, field
from functools import partial

import httpx

from clipfs import errors
from clipfs.image import auth
from clipfs.image.credentials import Credentials, RegistryConfig
from clipfs.image.failures import no_token
from clipfs.image.held import HeldCredentials
from clipfs.image.http import Answer, Method, Wire, has_address, same_origin
from clipfs.image.manifest import MAX_DOCUMENT_BYTES
from clipfs.image.mirrors import Host
from clipfs.image.reference import DOCKER_HUB, DOCKER_HUB_HOST, Reference

MOST_OTHERS = 32
"""Credentials that one question shows, one after the other: a registry may lock out who guesses."""


@dataclass(frozen=True, slots=True)
class _Header:
    """An Authorization header, and the credentials that it was made with."""

    value: str = field(repr=False)
    config: RegistryConfig


class Session:
    """Tokens are kept, a repository each, until the host wants another one."""

    def __init__(self, wire: Wire, held: HeldCredentials, registry: str, host: Host) -> None:
        own = DOCKER_HUB_HOST if registry == DOCKER_HUB else registry
        self.base = httpx.URL(host.base) if host.base else wire.url(own, "/v2")
        self.wire = wire.trusting(host.ca_pem)
        self._held = held
        name = self.base.netloc.decode()
        self._is_mirror = name != own
        self._name = name if self._is_mirror else registry  # what its credentials are kept under
        self._registry = registry
        self._authorization: dict[str, _Header] = {}  # by repository

    def names(self, reference: Reference) -> str:
        """reference for errors, with this host where it is not the registry itself."""
        return f"{reference} at {self._name}" if self._is_mirror else str(reference)

    def credentials(self, repository: str) -> Credentials | None:
        """What this host is shown for repository, should it ask."""
        return self._held.config.for_repository(self._name, repository)

    async def ask(
        self,
        method: Method,
        reference: Reference,
        kind: str,
        version: str,
        headers: dict[str, str],
        *,
        limit_bytes: int = MAX_DOCUMENT_BYTES,
        patient: bool,
    ) -> Answer:
        """Ask this host; answers its challenge once, and no other host's.

        A refusal is the answer only if there are no other credentials to be had, of all those
        whose bearers may have the image.
        """
        url = self.base.copy_with(path=f"{self.base.path}/{reference.repository}/{kind}/{version}")
        if self._is_mirror:
            url = url.copy_set_param("ns", self._registry)
        ask = partial(
            self._ask, method, reference, url, headers, limit_bytes=limit_bytes, patient=patient
        )
        for _ in range(MOST_OTHERS):
            shown = self._held.config
            try:
                answer = await ask()
            except (errors.Unauthenticated, errors.AccessDenied):  # the token server's
                if not await self._held.renewed(refused=shown):
                    raise
                continue
            is_refused = answer.status in (401, 403) and same_origin(answer.request.url, url)
            if not is_refused or not await self._held.renewed(refused=shown):
                return answer
        return await ask()

    async def _ask(
        self,
        method: Method,
        reference: Reference,
        url: httpx.URL,
        headers: dict[str, str],
        *,
        limit_bytes: int,
        patient: bool,
    ) -> Answer:
        """With the credentials that are held when it begins."""
        of, repository, config = str(reference), reference.repository, self._held.config
        known = self._authorization.get(repository)
        if known is not None and known.config is config:
            headers = {**headers, "Authorization": known.value}
        answer = await self.wire.ask(
            method, of, url, headers, limit_bytes=limit_bytes, patient=patient
        )
        if answer.status != 401 or not same_origin(answer.request.url, url):
            return answer
        credentials = config.for_repository(self._name, repository)
        value = await self._answer(reference, answer, credentials, patient=patient)
        if value is None:
            return answer
        headers = {**headers, "Authorization": value}
        answer = await self.wire.ask(
            method, of, url, headers, limit_bytes=limit_bytes, patient=patient
        )
        if answer.status != 401:  # what is wrong is not shown twice: some count that
            self._authorization[repository] = _Header(value, config)
        return answer

    async def _answer(
        self,
        reference: Reference,
        answer: Answer,
        credentials: Credentials | None,
        *,
        patient: bool,
    ) -> str | None:
        """The Authorization header that answers a 401; None if we have no answer."""
        for header in answer.headers.get_list("WWW-Authenticate"):
            for challenge in auth.parse_challenges(header):
                if challenge.scheme == "bearer":
                    return await self._token(reference, challenge, credentials, patient=patient)
                if challenge.scheme == "basic" and credentials is not None:
                    return auth.basic(credentials)
        return None

    async def _token(
        self,
        reference: Reference,
        challenge: auth.Challenge,
        credentials: Credentials | None,
        *,
        patient: bool,
    ) -> str:
        realm = self._realm(reference, challenge)
        of = f"{reference}: token server {realm.netloc.decode()}"
        asked = {"scope": f"repository:{reference.repository}:pull"}
        asked |= {k: v for k, v in challenge.parameters.items() if k in ("scope", "service")}
        if credentials is not None and credentials.identity_token:
            form = auth.refresh(credentials.identity_token)
            answer = await self.wire.post(of, realm, {**asked, **form}, patient=patient)
        else:
            headers = {"Authorization": auth.basic(credentials)} if credentials else {}
            url = realm.copy_merge_params(asked)
            answer = await self.wire.ask("GET", of, url, headers, patient=patient)
        if answer.status != 200:
            told = [credentials.identity_token] if credentials else []
            shown = [*answer.shown, *filter(None, told)]
            raise no_token(of, answer.status, answer.body, shown=shown)
        return auth.bearer(answer.body, of=of)

    def _realm(self, reference: Reference, challenge: auth.Challenge) -> httpx.URL:
        """The token server's address; only one with TLS, or named by the administrator."""
        try:
            realm = httpx.URL(challenge.parameters.get("realm", ""))
        except httpx.InvalidURL:
            realm = httpx.URL("")
        if not has_address(realm):
            raise errors.RegistryUnavailable(
                f"{self.names(reference)}: the registry's token server has no address; its "
                "WWW-Authenticate must have a realm of https://HOST"
            )
        if realm.scheme != "https" and not self.wire.is_plain(realm):
            raise errors.Unauthenticated(
                f"{reference}: the token server {realm.netloc.decode()[:100]!r} does not use "
                "https; to trust it, name it with --plain-http"
            )
        return realm
