"""Which hosts a registry's images are asked for at: containerd's `hosts.toml`.

    DIR/<host[:port]>/hosts.toml     of that registry; a port also as `host_port_`
    DIR/_default/hosts.toml          of every registry without a folder of its own

Files are read whenever a registry is asked for, so that a change needs no restart; NodeFault
names the file and what is wrong with it. What would change who is trusted and is not supported
is refused, not passed over: `skip_verify`, `client`, `header`.

Not here: which of the hosts answers (`clipfs.image.hosts`).
Source: containerd, "Registry Host Namespace" (docs/hosts.md).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from clipfs import errors
from clipfs.image.tls import load_ca_file

MAX_FILE_BYTES = 1 << 20
_REFUSED = ("skip_verify", "client", "header")
_CREDENTIAL = re.compile(r"[^'\"]*@")
_CAPABILITIES = frozenset(("pull", "resolve", "push"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One place where a registry's images are asked for.

    base         address of its API, `https://mirror/v2`; None: the registry's own
    may_resolve  asked what a tag names
    may_pull     asked for what a digest names
    ca_pem       trusted for this host, beside what is trusted for all
    """

    base: str | None = None
    may_resolve: bool = True
    may_pull: bool = True
    ca_pem: str = field(default="", repr=False)


ITSELF = Host()
"""The registry that a reference names."""


class _Entry(msgspec.Struct, frozen=True):
    """The keys of a `[host."..."]`, and at the top of a file those of `server`.

    capabilities  none is all of them, as containerd has it
    """

    capabilities: tuple[str, ...] = ()
    ca: str | list[str] = []
    override_path: bool = False
    skip_verify: bool = False
    client: object = None
    header: object = None


class _File(_Entry, frozen=True):
    server: str | None = None
    host: dict[str, _Entry] = {}


@dataclass(frozen=True, slots=True)
class Mirrors:
    """An administrator's folder; None: there is none."""

    folder: Path | None = None

    def hosts_of(self, registry: str) -> tuple[Host, ...]:
        """In the order in which they are asked; the last one's word holds."""
        for name in (registry, _with_port(registry), "_default"):
            path = self.folder / name if self.folder else None
            if path and path.is_dir():
                return _read(path / "hosts.toml")
        return (ITSELF,)


NO_MIRRORS = Mirrors()


def parse_hosts(text: str, *, folder: Path) -> tuple[Host, ...]:
    """The hosts of one file. ValueError says what is wrong; `ca` files lie below folder."""
    import tomllib  # here: most mounts find no such file

    found = msgspec.convert(tomllib.loads(text), type=_File)
    hosts = [_host(address, entry, folder) for address, entry in found.host.items()]
    if found.server is None:
        return (*hosts, ITSELF)
    return (*hosts, _host(found.server, found, folder))


def _read(path: Path) -> tuple[Host, ...]:
    try:
        with path.open("rb") as file:
            return parse_hosts(file.read(MAX_FILE_BYTES).decode(), folder=path.parent)
    except FileNotFoundError:
        return (ITSELF,)
    except OSError as error:
        raise errors.NodeFault(f"mirrors: {path}: {error.strerror}") from error
    except (ValueError, errors.InvalidInput) as error:  # TOML's, msgspec's and UTF-8's
        said = _CREDENTIAL.sub("***@", str(error))  # TOML's may name a key: an address
        raise errors.NodeFault(f"mirrors: {path}: {said}") from None


def _host(address: str, entry: _Entry, folder: Path) -> Host:
    shown = _shown(address)
    for name in _REFUSED:
        if getattr(entry, name):
            raise ValueError(f"{name} of {shown} is not supported; a CA is named by ca")
    files = [entry.ca] if isinstance(entry.ca, str) else entry.ca
    capabilities = {one.lower() for one in entry.capabilities} or _CAPABILITIES
    if unknown := sorted(capabilities - _CAPABILITIES):
        known = ", ".join(sorted(_CAPABILITIES))
        raise ValueError(f"{shown} has no capability {unknown[0][:40]!r}; there are {known}")
    return Host(
        base=_base(address, override_path=entry.override_path),
        may_resolve="resolve" in capabilities,
        may_pull="pull" in capabilities,
        ca_pem="\n".join(load_ca_file(folder / one) for one in files),
    )


def _base(address: str, *, override_path: bool) -> str:
    """https unless address says otherwise; its path ends in /v2 unless it overrides that."""
    shown = repr(_shown(address))
    try:
        url = httpx.URL(address if "://" in address else f"https://{address}")
    except httpx.InvalidURL as error:
        raise ValueError(f"{shown} is no address") from error
    if url.userinfo:
        raise ValueError(
            f"{shown} has credentials, which do not belong here; give them by that name in "
            "--registry-config or in the pull secret"
        )
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"{shown} is not http[s]://host[:port][/path]")
    base = str(url).rstrip("/")
    return base if override_path or base.endswith("/v2") else f"{base}/v2"


def _shown(address: str) -> str:
    """address for errors, without what may be a credential or a signature."""
    return re.split("[?#]", address.rpartition("@")[2])[0][:100]


def _with_port(registry: str) -> str:
    """How containerd writes a port where a folder's name may have no colon."""
    host, colon, port = registry.rpartition(":")
    return f"{host}_{port}_" if colon and port.isdecimal() else registry
