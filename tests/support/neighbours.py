"""A neighbour's private image, and a hostile registry that names its layer.

Two real registries with a user each. The neighbour's is behind a guard; the other one is behind a
proxy that makes it hostile: it serves manifests that name the neighbour's layer, says 200 to every
HEAD, and of the layer itself has nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from blake3 import blake3

from tests.support import images
from tests.support.driver import Driver
from tests.support.faulty_registry import relayed
from tests.support.guard import Guard
from tests.support.registry import run_registry, write_htpasswd
from tests.support.web import Asked, Reply, WebServer, run_web

SECRET = "the-neighbours-secret"
CHUNK_BYTES = 128 << 10
CALL_S = 40
"""Who joins work that does not go on is answered after that: nobody here is meant to."""

NEIGHBOUR, STRANGER, NOBODY = ("team-a", "alice"), ("team-b", "mallory"), ("team-b", "")
PASSWORDS = {"alice": "hush-alice", "mallory": "hush-mallory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """The neighbour's image; `contents` are what is in its layer: a name, and digests of chunks."""

    layouts: Path
    layer: str
    digests: dict[str, str]
    contents: tuple[str, ...]

    def all_of_it(self) -> tuple[str, ...]:
        """What nobody may read who knows but the image's name."""
        return (*self.contents, self.layer.partition(":")[2], self.digests["same"])


def make_secret(home: Path) -> Secret:
    """`same` is the neighbour's image, `mixed` another one that names its layer, too."""
    (home / "tree" / SECRET).mkdir(parents=True)
    (home / "tree" / SECRET / "key").write_bytes(os.urandom(300_000))
    (home / "own").mkdir()
    (home / "own/file").write_text("mine\n")
    layer = images.layer(home / "tree", home / "tree.tar")
    images.write_layout(home / "same", [layer])
    images.write_layout(home / "mixed", [images.layer(home / "own", home / "own.tar"), layer])
    payload = layer.tar.read_bytes()
    chunks = [payload[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES)]
    digests = {
        name: json.loads((home / name / "index.json").read_text())["manifests"][0]["digest"]
        for name in ("same", "mixed")
    }
    manifest = home / "same/blobs" / digests["same"].replace(":", "/")
    return Secret(
        layouts=home,
        layer=json.loads(manifest.read_text())["layers"][0]["digest"],
        digests=digests,
        contents=(SECRET, *(blake3(chunk).hexdigest() for chunk in chunks)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registries:
    """`guard` is before the neighbour's registry, at `neighbour`."""

    secret: Secret
    guard: Guard
    neighbour: WebServer
    hostile: WebServer

    def options(self) -> list[str]:
        return [word for web in (self.neighbour, self.hostile)
                for word in ("--plain-http", web.address)]  # fmt: skip # as typed by hand

    def image(self) -> str:
        return f"{self.neighbour.address}/team/app:1"

    def theirs(self, name: str) -> str:
        return f"{self.hostile.address}/{name}:1"

    def layer_reads(self) -> int:
        """How often the hostile one was asked for the layer."""
        return sum(one.method == "GET" and self.secret.layer in one.path
                   for one in self.hostile.asked)  # fmt: skip


@contextmanager
def run_registries(secret: Secret, home: Path) -> Iterator[Registries]:
    """Both, with the images; they end with the block."""
    with ExitStack() as stack:

        def run(user: str) -> str:
            users = write_htpasswd(home / user, {user: PASSWORDS[user]})
            started = run_registry(home / f"of-{user}", htpasswd=users)
            return stack.enter_context(started).address

        addresses = {user: run(user) for user in PASSWORDS}
        for user, name, tag in (("alice", "same", "team/app:1"), ("mallory", "same", "same:1"),
                                ("mallory", "mixed", "mixed:1")):  # fmt: skip # a table
            login = f"{user}:{PASSWORDS[user]}"
            images.push(secret.layouts / name, addresses[user], tag, creds=login)

        def lies(asked: Asked) -> Reply:
            name, _, version = asked.path.rpartition("/")
            if asked.method == "HEAD":
                digest = version if ":" in version else secret.digests[name.split("/")[2]]
                return Reply(headers={"Docker-Content-Digest": digest})
            return (
                Reply(404) if secret.layer in asked.path else relayed(addresses["mallory"], asked)
            )

        guard = Guard(addresses["alice"])
        neighbour, hostile = (stack.enter_context(run_web(one)) for one in (guard, lies))
        try:
            yield Registries(secret=secret, guard=guard, neighbour=neighbour, hostile=hostile)
        finally:
            guard.let_go()


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """A publish by a pod of a namespace, with a user's password if it has any."""

    who: tuple[str, str]
    image: str
    front: str = "fuse"
    policy: str = "IfNotPresent"

    @property
    def pod(self) -> str:
        said = f"{self.who}{self.image}{self.front}{self.policy}"
        return f"{self.who[0]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def publish(
        self,
        driver: Driver,
        within_s: float = CALL_S,
        *,
        pod: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:
        """pod  what the kubelet says of it, where that matters"""
        namespace, user = self.who
        attributes = {**pod, "front": self.front, "pullPolicy": self.policy,
                      "csi.storage.k8s.io/pod.namespace": namespace}  # fmt: skip # one to a line
        pair = {"username": user, "password": PASSWORDS[user]} if user else None
        return driver.publish(self.pod, self.image, pair, attributes=attributes, within_s=within_s)
