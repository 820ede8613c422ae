"""Platforms, and the choice of one image from a manifest list.

Source: OCI image specification, "Image Index", platform; Go's GOOS and GOARCH names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from clipfs import errors

_MACHINES = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
}
_DEFAULT_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """os/architecture[/variant], for example linux/arm64/v8."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str) -> Platform:
    """InvalidInput unless text is os/arch or os/arch/variant."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(part.isalnum() and part.isascii() for part in parts):
        raise errors.InvalidInput(f"platform {text[:100]!r}: write OS/ARCH or OS/ARCH/VARIANT")
    return Platform(*(part.lower() for part in parts))


def host_platform() -> Platform:
    """This machine's: images are shown to containers that run here."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, None))
    return Platform("linux", architecture, variant)


def choose(wanted: Platform, offered: Sequence[Platform | None]) -> int | None:
    """The position in offered of the first match; a variant that is left open is the default one.

    Where wanted names no variant, any is better than none.
    """
    close = [
        (position, one)
        for position, one in enumerate(offered)
        if one and (one.os, one.architecture) == (wanted.os, wanted.architecture)
    ]
    default = _DEFAULT_VARIANTS.get(wanted.architecture)
    for position, one in close:
        if (one.variant or default) == (wanted.variant or default):
            return position
    return close[0][0] if close and wanted.variant is None else None
