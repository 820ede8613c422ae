"""Registry credentials, from a docker `config.json` or a Kubernetes pull secret.

Nothing here prints a secret: reprs and errors name files and hosts only. Credential helpers
are programs of the machine that wrote the file; they are not run.

Source: docker's config.json, "auths"; Kubernetes, "kubernetes.io/dockerconfigjson".
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from clipfs import errors
from clipfs.image.reference import DOCKER_HUB, DOCKER_HUB_ALIASES

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user's name and password, or an identity token to be exchanged for one."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)


class _Auth(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None


class _Config(msgspec.Struct):
    auths: dict[str, _Auth | None] | None = None


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Credentials by `host[:port]` or `host[:port]/path`; the longest path wins."""

    by_place: Mapping[str, Credentials] = field(repr=False)

    @classmethod
    def empty(cls) -> Self:
        return cls({})

    @classmethod
    def single(cls, registry: str, username: str, password: str) -> Self:
        return cls({registry: Credentials(username=username, password=password)})

    @classmethod
    def from_json(cls, data: bytes, *, source: str) -> Self:
        """The `auths` of a config.json; InvalidInput names source, never the content."""
        try:
            auths = msgspec.json.decode(data, type=_Config).auths or {}
            read = {_place(key): _credentials(auth) for key, auth in auths.items()}
        except (ValueError, RecursionError):  # msgspec's, base64's and UTF-8's are ValueErrors
            raise errors.InvalidInput(
                f"registry config {source} is not a docker config.json with auths"
            ) from None  # the cause may quote a secret
        return cls({place: one for place, one in read.items() if one is not None})

    def merged(self, nearer: "RegistryConfig") -> "RegistryConfig":
        """Both; where both speak of a place, nearer's word holds."""
        return RegistryConfig({**self.by_place, **nearer.by_place})

    def to_json(self) -> bytes:
        """A config.json with these credentials: for a process of our own, never for a disk."""
        auths = {
            place: {
                "username": one.username,
                "password": one.password,
                "identitytoken": one.identity_token or "",
            }
            for place, one in self.by_place.items()
        }
        return msgspec.json.encode({"auths": auths})

    def for_repository(self, registry: str, repository: str) -> Credentials | None:
        """What to show registry for repository; None if nothing is known for either."""
        parts = [registry, *repository.split("/")]
        for length in range(len(parts), 0, -1):
            found = self.by_place.get("/".join(parts[:length]))
            if found is not None:
                return found
        return None


def load_registry_config(path: Path) -> RegistryConfig:
    """InvalidInput names the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise errors.InvalidInput(f"registry config {path}: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise errors.InvalidInput(f"registry config {path} is over {MAX_CONFIG_BYTES} bytes")
    return RegistryConfig.from_json(data, source=str(path))


def _place(key: str) -> str:
    """`https://index.docker.io/v1/` -> docker.io; others lose scheme, /v1/, /v2/ and slash."""
    host, _, path = key.split("://", 1)[-1].rstrip("/").partition("/")
    if host in DOCKER_HUB_ALIASES:
        host = DOCKER_HUB
    return host if path in ("", "v1", "v2") else f"{host}/{path}"


def _credentials(auth: _Auth | None) -> Credentials | None:
    """None for an entry that holds none: docker writes those where a helper keeps the secret."""
    if auth is None:
        return None
    username, password = auth.username or "", auth.password or ""
    if auth.auth:
        username, _, password = base64.b64decode(auth.auth).decode().partition(":")
        password = password.strip("\0")
    if not (username or auth.identitytoken):
        return None
    return Credentials(
        username=username, password=password, identity_token=auth.identitytoken or None
    )
