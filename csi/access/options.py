"""The options of `clip-csi node` that say who may have which image.

`access_options` adds `access_grace_s` and `policy_file` to a click command.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from clipfs.cli.options import FILE

DEFAULT_GRACE_S = 24 * 3600
"""A night on which a registry is down; a right that was taken away meanwhile holds no longer."""

F = TypeVar("F", bound=Callable[..., Any])

MAX_GRACE_H = 10 * 365 * 24
"""Who wants more wants no proof."""

_DURATION = re.compile(r"([0-9]+)(h|m|s)|0")
MAX_DIGITS = 9
_SECONDS = {"h": 3600, "m": 60, "s": 1}


def duration_s(text: str) -> int:
    """Seconds of 24h, 30m, 90s or 0."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text[:40]!r} is no duration; write 24h, 30m, 90s or 0")
    if not match[1]:
        return 0
    number, unit_s = match[1].lstrip("0") or "0", _SECONDS[match[2]]
    if len(number) > MAX_DIGITS or int(number) * unit_s > MAX_GRACE_H * _SECONDS["h"]:
        raise click.BadParameter(f"{text[:40]!r} is too long; at most {MAX_GRACE_H}h")
    return int(number) * unit_s


def access_options(command: F) -> F:
    grace = click.option(
        "--access-grace",
        "access_grace_s",
        type=duration_s,
        metavar="DURATION",
        default=f"{DEFAULT_GRACE_S // 3600}h",
        show_default=True,
        help="While a registry cannot be asked, how long ago the same credentials must have been "
        "proved on this node for the same digest; 24h, 30m, 90s, 0.",
    )
    policy = click.option(
        "--policy-file",
        type=FILE,
        metavar="F",
        help="TOML with the namespaces, images and digests that volumes may have; read at the "
        "start. Absent: all.",
    )
    return grace(policy(command))
