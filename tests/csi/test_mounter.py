"""The mounter's own part of a publish: what it says of a mount, and how it gives one up."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from clipfs.cache.limits import Limits
from clipfs.cli.settings import tier_settings
from clipfs.image.credentials import RegistryConfig
from clipfs.image.model import Image
from clipfs.image.platform import host_platform
from clipfs.image.reference import parse_reference
from clipfs.tiers.settings import TierSettings
from csi.collector import Collector
from csi.credentials.lending import Lent
from csi.errors import CallerGone
from csi.launcher import Launcher
from csi.mounter import ClipMounter
from csi.status.reporter import WorkProgress
from tests.support.driver import cleaned_up, mounts_below
from tests.support.leftovers import litter
from tests.support.machine import needs_fuse
from tests.support.registry import RegistryServer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.wait import wait_for

pytestmark = needs_fuse


@dataclass
class Watched:
    """Wants a mount until it has asked so often."""

    patience: int = 1 << 30
    told: list[WorkProgress] = field(default_factory=list)

    def is_wanted(self) -> bool:
        self.patience -= 1
        return self.patience >= 0

    def tell(self, progress: WorkProgress) -> None:
        self.told.append(progress)


@dataclass
class Node:
    settings: TierSettings
    mounter: ClipMounter

    def resolve(self, name: str) -> Image:
        async def ask() -> Image:
            async with self.settings.open_registry() as registry:
                return await registry.resolve(parse_reference(name), host_platform())

        return trio.run(ask)


NOBODYS = Lent(volume="v", config=RegistryConfig.empty())


@pytest.fixture
def node(registry: RegistryServer, scripted: ScriptedRegistry, tmp_path: Path) -> Iterator[Node]:
    hosts = (registry.address, scripted.address)
    settings = tier_settings(
        root=tmp_path / "root", content_cache=(), content_cache_token_file=None,
        index_key_file=None, registry_config=None, plain_http=hosts, ca_file=None, mirrors=None,
    )  # fmt: skip
    words = ["--root", str(tmp_path / "root")]
    for host in hosts:
        words += ["--plain-http", host]
    collector, launcher = Collector(settings.layout, Limits()), Launcher()
    with cleaned_up(tmp_path), launcher.running():
        yield Node(
            settings,
            ClipMounter(
                settings.layout,
                settings.keys,
                launcher,
                image_options=words,
                mount_options=[],
                collector=collector,
            ),
        )


@pytest.mark.parametrize("front", ["fuse", "erofs"])
def test_a_mount_says_its_front_its_time_and_what_it_has_read(
    front: str, node: Node, image: str
) -> None:
    found, watched = node.resolve(image), Watched()
    tree = node.mounter.mount(found, front=front, lent=NOBODYS, watch=watched)
    size = sum(layer.size for layer in found.layers)
    made = tree.mounted
    assert (made.front, made.layers, made.complete) == (front, 1, 1)
    assert made.seconds > 0
    assert made.bytes_by_tier["registry"] == size
    assert (tree.place / "hello").read_text() == "world\n"
    again = node.mounter.mount(found, front=front, lent=NOBODYS, watch=watched)
    assert (again.place, again.mounted.front) == (tree.place, front)
    assert (again.mounted.layers, again.mounted.complete) == (1, 1)
    assert (made.is_shared, again.mounted.is_shared) == (False, True)
    assert again.mounted.seconds == made.seconds, "of the work that made it"
    assert again.mounted.bytes_by_tier["registry"] == size
    node.mounter.unmount(found.digest)
    assert node.mounter.mounted() == []


def test_a_driver_that_was_started_with_sigint_ignored_stops_a_mount_all_the_same(
    node: Node, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    """As a shell's `&` starts it; then the mount ends by its own, and leaves nothing."""
    found = node.resolve(f"{scripted.address}/app:1")
    scripted.close_gate()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(CallerGone):
            node.mounter.mount(found, front="fuse", lent=NOBODYS, watch=Watched(1))
    finally:
        signal.signal(signal.SIGINT, before)
        scripted.open_gate()
    wait_for(lambda: litter(tmp_path / "root", driver=0) == [])


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_mount_that_nobody_wants_any_more_is_stopped_and_undone(
    patience: int, node: Node, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    found = node.resolve(f"{scripted.address}/app:1")
    scripted.close_gate()
    with pytest.raises(CallerGone, match=f"{scripted.address}/app:1: nobody wants it any more"):
        node.mounter.mount(found, front="fuse", lent=NOBODYS, watch=Watched(patience))
    assert mounts_below(tmp_path) == []
    wait_for(lambda: litter(tmp_path / "root", driver=0) == [])
    scripted.open_gate()
    tree = node.mounter.mount(found, front="fuse", lent=NOBODYS, watch=Watched())
    assert (tree.place / "hello").read_text() == "world\n"
    node.mounter.unmount(found.digest)
