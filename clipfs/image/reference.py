"""Image references: text in, a normalised name out.

    ubuntu                          docker.io/library/ubuntu:latest
    host:5000/team/app:1.2          as it stands
    app@sha256:...                  a digest; with a tag beside it the digest decides

Source: distribution's reference grammar (reference.go, in its comments); docker.io short
names as in its `ParseNormalizedNamed`.
"""

import re
from dataclasses import dataclass, replace
from typing import Self

from clipfs import errors
from clipfs.image.digest import Digest, is_digest

DOCKER_HUB = "docker.io"
DOCKER_HUB_HOST = "registry-1.docker.io"
"""Where its registry answers; docker.io itself is a name only."""

DOCKER_HUB_ALIASES = ("index.docker.io", DOCKER_HUB_HOST)
DEFAULT_TAG = "latest"
MAX_NAME_BYTES = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"  # 63 letters: what DNS can ask for
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_ALMOST_DIGEST = re.compile(r"(?i)(?:sha[0-9]+|md5):[^@/]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an image is: registry host[:port], repository, and a tag or a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def version(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: Digest) -> Self:
        return replace(self, digest=digest)


def parse_reference(text: str) -> Reference:
    """The image that text names; InvalidInput says which part is wrong."""
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _invalid(text, "what follows @ is not a sha256 digest (sha256: and 64 hex digits)")
    if "://" in name:
        raise _invalid(text, "a reference has no scheme")
    registry, path = _split_host(name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag[:130]!r} is not a tag (letters, digits, _ . -, at most 128)")
    if registry == DOCKER_HUB and path and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(registry) or not _is_port(registry):
        raise _invalid(text, f"{registry[:80]!r} is not a registry host[:port]")
    if not _REPOSITORY.fullmatch(path):
        raise _invalid(
            text, "the repository takes lower-case letters, digits and single . _ - between them"
        )
    if len(registry) + 1 + len(path) > MAX_NAME_BYTES:
        raise _invalid(text, f"the name is longer than {MAX_NAME_BYTES} characters")
    if not (colon or at):
        tag = DEFAULT_TAG
    return Reference(
        registry=registry,
        repository=path,
        tag=tag or None,
        digest=Digest(digest) if at else None,
    )


def may_hold_secret(text: str) -> bool:
    """Whether a password may stand in it, as in user:password@host: it is not to be repeated."""
    _, at, rest = text.partition("@")
    return bool(at) and _ALMOST_DIGEST.fullmatch(rest) is None


def _split_host(name: str) -> tuple[str, str]:
    """The first component is a host if it looks like one: a dot, a colon, a capital, localhost."""
    first, slash, rest = name.partition("/")
    if slash and (
        any(sign in first for sign in ".:[") or first.lower() != first or first == "localhost"
    ):
        host = DOCKER_HUB if first in DOCKER_HUB_ALIASES else first
        return host, rest
    return DOCKER_HUB, name


def _is_port(registry: str) -> bool:
    _, colon, port = registry.rpartition(":")
    if not colon or port.endswith("]"):
        return True
    return 0 < int(port) < 65536


def _invalid(text: str, reason: str) -> errors.InvalidInput:
    shown = ascii(text[:200]) if text else "''"
    if may_hold_secret(text):
        shown = "(which may hold a password, so that it is not repeated)"
        reason += "; credentials go into a secret or a docker config"
    return errors.InvalidInput(
        f"image reference {shown}: {reason}; write it as [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]"
    )
