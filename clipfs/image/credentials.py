"""Registry credentials, from a docker `config.json` or a Kubernetes pull secret.

Nothing here prints a secret: reprs and errors name files and hosts only. Credential helpers
are programs of the machine that wrote the file; they are not run. What an entry has instead of
credentials is remembered, to be told to who misses them.

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
    registrytoken: str | None = None


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth | None] | None = None
    creds_store: str | None = None
    cred_helpers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Credentials by `host[:port]` or `host[:port]/path`; the longest path wins.

    unused  by place, "" is any: what is there instead of credentials, as a sentence
    """

    by_place: Mapping[str, Credentials] = field(repr=False)
    unused: Mapping[str, str] = field(default_factory=dict, compare=False)

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
            said = msgspec.json.decode(data, type=_Config)
        except (ValueError, RecursionError):  # msgspec's and UTF-8's are ValueErrors
            raise errors.InvalidInput(
                f"registry config {source} is not a docker config.json with auths"
            ) from None  # the cause may quote a secret
        auths = {_place(key): auth for key, auth in (said.auths or {}).items()}
        read = {place: _credentials(auth, place, source) for place, auth in auths.items()}
        known = {place: one for place, one in read.items() if one is not None}
        return cls(known, _unused(said, auths, source))

    def merged(self, nearer: "RegistryConfig") -> "RegistryConfig":
        """Both; where both speak of a place, nearer's word holds."""
        return RegistryConfig(
            {**self.by_place, **nearer.by_place}, {**self.unused, **nearer.unused}
        )

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
        places = [place for place in _places(registry, repository) if place in self.by_place]
        return self.by_place[places[0]] if places else None

    def unused_for(self, registry: str, repository: str) -> str | None:
        """What there is for repository in place of credentials; None: nothing."""
        places = [*_places(registry, repository), ""]
        return next((self.unused[place] for place in places if place in self.unused), None)


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


def _places(registry: str, repository: str) -> list[str]:
    """What may speak of repository, the longest first."""
    parts = [registry, *repository.split("/")]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _unused(said: _Config, auths: Mapping[str, _Auth | None], source: str) -> dict[str, str]:
    unused = {"": f"{source} leaves credentials to a credsStore, which is not asked"}
    if not said.creds_store:
        unused.clear()
    for place in map(_place, said.cred_helpers or ()):
        unused[place] = f"{source} leaves {place} to a program of credHelpers, which is not run"
    for place, auth in auths.items():
        if auth is not None and auth.registrytoken:
            unused[place] = f"{source} has a registrytoken for {place}, which is not used"
    return unused


def _place(key: str) -> str:
    """`https://index.docker.io/v1/` -> docker.io; others lose scheme, /v1/, /v2/ and slash."""
    host, _, path = key.split("://", 1)[-1].rstrip("/").partition("/")
    if host in DOCKER_HUB_ALIASES:
        host = DOCKER_HUB
    return host if path in ("", "v1", "v2") else f"{host}/{path}"


def _credentials(auth: _Auth | None, place: str, source: str) -> Credentials | None:
    """None for an entry that holds none: docker writes those where a helper keeps the secret."""
    if auth is None:
        return None
    username, password = auth.username or "", auth.password or ""
    if auth.auth:
        username, password = _pair(auth.auth, place, source)
    if not (username or auth.identitytoken):
        return None
    return Credentials(
        username=username, password=password, identity_token=auth.identitytoken or None
    )


def _pair(auth: str, place: str, source: str) -> tuple[str, str]:
    """As the kubelet reads it: lines do not count, and the padding may be left out."""
    bare = auth.replace("\r", "").replace("\n", "")
    padded = bare if "=" in bare else bare + "=" * (-len(bare) % 4)
    try:
        username, colon, password = base64.b64decode(padded, validate=True).decode().partition(":")
    except ValueError:  # base64's and UTF-8's
        colon = ""
    if not colon:
        raise errors.InvalidInput(
            f"registry config {source} is not a docker config.json with auths: the auth of "
            f"{place[:100]!a} is not the base64 of user:password"
        ) from None
    return username, password.strip("\0")
