"""The option `--metrics HOST:PORT`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from clipfs import errors

F = TypeVar("F", bound=Callable[..., Any])
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen; host "" is every address of this machine, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def metrics_option(command: F) -> F:
    return click.option(
        "--metrics",
        metavar="HOST:PORT",
        help="Serve /metrics, /healthz and /readyz there, to whoever asks; :9090 and [::]:9090 are "
        "every address. Absent: no port is opened.",
    )(command)


def address_of(text: str) -> Address:
    """InvalidInput if that is no address."""
    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and int(port) <= MAX_PORT
    in_brackets = host.startswith("[") and host.endswith("]")
    if not colon or not is_port or (":" in host) != in_brackets:
        raise errors.InvalidInput(f"--metrics {text[:100]!r}: say HOST:PORT, :PORT or [IPV6]:PORT")
    return Address(host=host.strip("[]"), port=int(port))
