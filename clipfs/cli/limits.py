"""`--max-bytes` and `--min-free`: how much of the disk the cache may take."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from clipfs.cache.limits import Limits

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_BYTES = re.compile(r"([0-9]{1,18})(|Ki|Mi|Gi|Ti)")
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,6})?)%")


def byte_count(text: str) -> int:
    """A number of bytes, with a unit as Kubernetes writes it."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no number of bytes; write 1000000, 512Mi, 20Gi")
    return int(match[1]) * _UNITS[match[2]]


def min_free(text: str) -> Limits:
    """A number of bytes, or a percentage of the disk, below 100."""
    if match := _PERCENT.fullmatch(text):
        return Limits(min_free_percent=float(match[1]))
    if not _BYTES.fullmatch(text):
        raise click.BadParameter(
            f"{text!r} is no number of bytes and no percentage below 100; write 1000000, 512Mi, "
            "20Gi, 10%, 7.5%"
        )
    return Limits(min_free_bytes=byte_count(text))


def limit_options(command: F) -> F:
    """Adds `max_bytes` and `min_free`, for `limits_of`."""
    most = click.option(
        "--max-bytes",
        type=byte_count,
        metavar="N",
        help="What layers and indexes may take together; 512Mi, 20Gi.",
    )
    least = click.option(
        "--min-free",
        type=min_free,
        metavar="BYTES|PERCENT",
        help="What must stay free on the disk; 20Gi, 10%.",
    )
    return most(least(command))


def limits_of(max_bytes: int | None, min_free: Limits | None) -> Limits:
    """Both options as one value."""
    return replace(min_free or Limits(), max_bytes=max_bytes)


def words_of(max_bytes: int | None, min_free: Limits | None) -> list[str]:
    """The options that become these values."""
    words = ["--max-bytes", str(max_bytes)] if max_bytes is not None else []
    if min_free is not None and min_free.min_free_percent is not None:
        words += ["--min-free", f"{min_free.min_free_percent:.6f}%"]
    elif min_free is not None:
        words += ["--min-free", str(min_free.min_free_bytes)]
    return words
