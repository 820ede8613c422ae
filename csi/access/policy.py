"""What an administrator lets volumes show: namespaces, images, digests. Read once, at the start.

    [[rule]]                                  # a volume needs one rule that fits it
    namespaces = ["team-*"]                   # none given: all
    images = ["registry.example/team/*"]
    digests_required = true                   # false unless it is said

Patterns are those of a shell, case counts, and `*` goes over slashes. An image's is held against
its whole name: `docker.io/library/app:1`, `host:5000/app@sha256:...`. A volume that no pod is known
of has the namespace "".

Not here: who may read what, which is the registry's to say (`csi.access.admission`).
"""

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

from clipfs import errors
from csi.errors import RefusedByPolicy
from csi.volume import Volume

MAX_FILE_BYTES = 1 << 20
MAX_SHOWN = 8
"""Patterns in a message: it ends in `kubectl describe`."""

Patterns = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[rule]]`."""

    images: Patterns
    namespaces: Patterns = ("*",)
    digests_required: bool = False

    def is_of(self, namespace: str) -> bool:
        return any(fnmatchcase(namespace, one) for one in self.namespaces)

    def allows(self, image: str, *, has_digest: bool) -> bool:
        is_named = any(fnmatchcase(image, one) for one in self.images)
        return is_named and (has_digest or not self.digests_required)

    def __str__(self) -> str:
        more = " ..." if len(self.images) > MAX_SHOWN else ""
        by_digest = " by digest" if self.digests_required else ""
        return ", ".join(self.images[:MAX_SHOWN]) + more + by_digest


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: Annotated[tuple[Rule, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of one file, `source`."""

    source: str
    rules: tuple[Rule, ...]

    def check(self, volume: Volume) -> None:
        """RefusedByPolicy, which names the file and what it allows, if no rule fits volume."""
        namespace = volume.pod.namespace if volume.pod is not None else ""
        ours = [rule for rule in self.rules if rule.is_of(namespace)]
        image, has_digest = str(volume.image), volume.image.digest is not None
        if any(rule.allows(image, has_digest=has_digest) for rule in ours):
            return
        there = "; ".join(map(str, ours[:MAX_SHOWN])) or "nothing"
        raise RefusedByPolicy(
            f"{image}: the node's policy does not allow it in namespace {namespace!r}; "
            f"{self.source} allows there: {there}"
        )


def parse_policy(text: str, *, source: str) -> Policy:
    """ValueError says what is wrong with text."""
    found = msgspec.convert(tomllib.loads(text), type=_File)
    return Policy(source=source, rules=found.rule)


def load_policy(path: Path) -> Policy:
    """InvalidInput names the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it has over {MAX_FILE_BYTES} bytes")
        return parse_policy(data.decode(), source=str(path))
    except OSError as error:
        raise errors.InvalidInput(f"--policy-file {path}: {error.strerror}") from error
    except ValueError as error:  # TOML's, msgspec's and UTF-8's
        raise errors.InvalidInput(f"--policy-file {path}: {error}") from error
