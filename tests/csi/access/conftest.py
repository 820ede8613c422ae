"""A private registry that can be stopped, tenants who ask for its images, and a clock."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image
from clipfs.image.platform import Platform
from clipfs.image.reference import parse_reference
from clipfs.image.retry import RetryPolicy
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.tiers.settings import TierSettings
from csi.access.access import Access
from csi.access.proofs import Clock
from csi.volume import PullPolicy, Volume
from tests.support import images
from tests.support.registry import RegistryServer, run_registry, write_htpasswd

ALICE, BOB = "hush-alice", "hush-bob"
GRACE_S = 24 * 3600
AT_ONCE = RetryPolicy(first_s=0)
"""As the product asks again, but for the waiting."""


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two images that share nothing."""
    made = []
    for name in ("one", "two"):
        home = tmp_path_factory.mktemp(name)
        (home / "1").mkdir()
        (home / "1/file").write_text(name)
        images.write_layout(home / "oci", [images.layer(home / "1", home / "1.tar")])
        made.append(home / "oci")
    return made[0], made[1]


@dataclass(slots=True)
class Private:
    """A registry that alice and bob may read; it stays the same one when it is started again."""

    home: Path
    layouts: tuple[Path, Path]
    address: str = "127.0.0.1:0"
    users: dict[str, str] = field(default_factory=lambda: {"alice": ALICE, "bob": BOB})
    _running: ExitStack = field(default_factory=ExitStack)
    _server: RegistryServer | None = None

    def start(self) -> None:
        htpasswd = write_htpasswd(self.home / "htpasswd", self.users)
        started = run_registry(self.home, htpasswd=htpasswd, address=self.address)
        self._server = self._running.enter_context(started)
        self.address = self._server.address

    def stop(self) -> None:
        self._running.close()

    def push(self, name: str, which: int = 0) -> str:
        """Put one of the two images there; its reference."""
        login = f"alice:{self.users['alice']}"
        return images.push(self.layouts[which], self.address, name, creds=login)

    def remove(self, reference: str, digest: str) -> None:
        """What `docker manifest rm` and lifecycle rules of registries do."""
        name = reference.rpartition(":")[0]
        subprocess.run(
            ["skopeo", "delete", "--tls-verify=false", "--creds", f"alice:{ALICE}",
             f"docker://{name}@{digest}"],
            check=True,
        )  # fmt: skip  # a command line

    def answered(self) -> list[str]:
        """What it has answered with success since it was started: method and version."""
        assert self._server is not None
        return [
            f"{method} {path.rpartition('/')[2]}"
            for method, path, status in self._server.requests()
            if status == 200 and "/manifests/" in path and method in ("GET", "HEAD")
        ]


@pytest.fixture
def private(tmp_path: Path, layouts: tuple[Path, Path]) -> Iterator[Private]:
    made = Private(tmp_path / "registry", layouts)
    made.home.mkdir()
    made.start()
    try:
        yield made
    finally:
        made.stop()


@dataclass(slots=True)
class Time:
    """Both clocks go by the same seconds."""

    passed_s: float = 0

    def clock(self) -> Clock:
        return Clock(now_s=lambda: 1000 + self.passed_s, wall_s=lambda: 1e9 + self.passed_s)


@dataclass(slots=True)
class Node:
    """A driver's access to images, on a root of its own."""

    layout: Layout
    settings: TierSettings
    time: Time
    access: Access

    def restart(self, *, grace_s: float = GRACE_S) -> None:
        self.access = Access(self.settings, grace_s=grace_s, clock=self.time.clock())

    def admit(
        self,
        image: str,
        login: str = f"alice:{ALICE}",
        *,
        policy: PullPolicy = "IfNotPresent",
        pinned: str | None = None,
        platform: str = "amd64",
    ) -> Image:
        """What a pod with these credentials gets; login: user:password, or nothing."""
        reference = parse_reference(image)
        name, _, password = login.partition(":")
        config = RegistryConfig.single(reference.registry, name, password)
        volume = Volume(
            volume_id="csi-1", target=Path("/t"), image=reference, pull_policy=policy,
            platform=Platform("linux", platform), front="auto", attributes={}, pod=None,
            credentials=RegistryConfig.empty(),
        )  # fmt: skip  # fields that no test changes
        return self.access.admit(
            volume,
            config if login else RegistryConfig.empty(),
            pinned=Digest(pinned) if pinned else None,
        )

    def has(self, image: Image) -> None:
        """It is indexed here from now on, as a publish leaves it."""
        self.layout.image_index(cache_key(image.digest)).touch()
        for layer in image.layers:
            self.layout.layer_index(layer.cache_key).touch()

    def lost(self, image: Image) -> None:
        """It was collected."""
        self.layout.image_index(cache_key(image.digest)).unlink()


NodeOf = Callable[[str], Node]


@pytest.fixture
def node_of(tmp_path: Path) -> NodeOf:
    """A node that speaks plain HTTP to the registry at an address."""

    def make(address: str) -> Node:
        layout = Layout(tmp_path / "root")
        layout.make()
        settings = TierSettings(
            layout=layout,
            keys=KeyRing((b"cluster",)),
            registry_config=RegistryConfig.empty(),
            plain_http=frozenset([address, "127.0.0.1"]),
            retry=AT_ONCE,
        )
        time = Time()
        access = Access(settings, grace_s=GRACE_S, clock=time.clock())
        return Node(layout, settings, time, access)

    return make


@pytest.fixture
def node(private: Private, node_of: NodeOf) -> Node:
    return node_of(private.address)
