"""Private registries whose users come and go, one by passwords and one by tokens that expire."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.support import images
from tests.support.registry import (
    RegistryServer,
    make_certificate,
    run_registry,
    write_htpasswd,
)
from tests.support.tokens import LEEWAY_S, Issued, run_token_server
from tests.support.watched_registry import WatchedRegistry, watched_registry


class Origin(Protocol):
    """One registry, its users, and what it gave to whom.

    server  the registry itself, whose log counts
    hosts   that are spoken to in plain HTTP
    issued  its tokens by subject; none where passwords are shown to the registry itself
    """

    name: str
    server: RegistryServer
    watched: WatchedRegistry
    hosts: list[str]
    issued: dict[str, Issued]

    def let_in(self, users: dict[str, str]) -> None:
        """These and no others from now on: passwords by name."""


@dataclass(slots=True, kw_only=True)
class Basic:
    name: str = "htpasswd"
    server: RegistryServer
    watched: WatchedRegistry
    hosts: list[str]
    file: Path
    issued: dict[str, Issued] = field(default_factory=dict)

    def let_in(self, users: dict[str, str]) -> None:
        os.replace(write_htpasswd(self.file.with_suffix(".new"), users), self.file)


@dataclass(slots=True, kw_only=True)
class Tokens:
    name: str = "tokens"
    server: RegistryServer
    watched: WatchedRegistry
    hosts: list[str]
    users: dict[str, str]
    issued: dict[str, Issued]

    def let_in(self, users: dict[str, str]) -> None:
        self.users.update(users)
        for gone in set(self.users) - set(users):
            del self.users[gone]


@contextmanager
def basic_origin(home: Path, users: dict[str, str]) -> Iterator[Basic]:
    """Over what `push_lazy` has brought to the same home."""
    file = write_htpasswd(home / "htpasswd", users)
    with (
        run_registry(home, htpasswd=file) as server,
        watched_registry(server.address) as watched,
    ):
        yield Basic(server=server, watched=watched, hosts=[watched.address], file=file)


@contextmanager
def token_origin(home: Path, users: dict[str, str], *, token_s: int) -> Iterator[Tokens]:
    """The same; the registry takes each token for token_s."""
    (home / "auth").mkdir(parents=True)
    certificate = make_certificate(home / "auth")
    with (
        run_token_server(certificate, users=dict(users), life_s=token_s - LEEWAY_S) as tokens,
        run_registry(home, token=tokens.auth) as server,
        watched_registry(server.address) as watched,
    ):
        hosts = [watched.address, tokens.web.address]
        yield Tokens(
            server=server, watched=watched, hosts=hosts, users=tokens.users, issued=tokens.issued
        )


def push_lazy(home: Path, name: str, *, layers: int, file_bytes: int) -> dict[str, str]:
    """Bring an image with a file a layer to the registry at home; the files' digests by name."""
    digests, packed = {}, []
    scratch = home.parent / f"{home.name}-{name.replace('/', '-')}"
    for number in range(layers):
        folder = scratch / str(number)
        folder.mkdir(parents=True)
        data = os.urandom(file_bytes)
        (folder / f"file-{number}").write_bytes(data)
        digests[f"file-{number}"] = hashlib.sha256(data).hexdigest()
        packed.append(images.layer(folder, scratch / f"{number}.tar"))
    images.write_layout(scratch / "oci", packed)
    with run_registry(home) as server:
        images.push(scratch / "oci", server.address, f"{name}:1")
    return digests
