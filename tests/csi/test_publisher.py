"""Making a volume while somebody makes room, where what the node has of its image stays; and
who is told what becomes of it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from clipfs import errors
from clipfs.cache.collect import collect
from clipfs.cache.limits import Limits
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest, cache_key
from clipfs.image.model import Image, Layer
from clipfs.image.platform import host_platform
from clipfs.image.reference import parse_reference
from clipfs.layer.layout import Layout
from csi.asker import Asker
from csi.calls import Call
from csi.credentials.asking import Asking
from csi.credentials.handing import SOCKET, Handing
from csi.credentials.lending import Lending, Lent
from csi.credentials.sources import GivenSecret, Sources
from csi.errors import CallerGone, StillIndexing, VolumeConflict
from csi.mounter import Tree, Watch
from csi.publisher import Publisher
from csi.status.reporter import Mounted, Reporter, Subject, WorkProgress
from csi.volume import PullPolicy, Volume, name_of
from csi.work import LINGER_S
from tests.support.driver import cleaned_up
from tests.support.machine import needs_fuse
from tests.support.volumes import POD, asking_nobody
from tests.support.wait import wait_for

LAYER = Layer(digest=Digest(f"sha256:{'a' * 64}"), size=1, media_type="", diff_id=None)
IMAGE = Image(
    reference=parse_reference("h.io/a:1"), digest=Digest(f"sha256:{'b' * 64}"), layers=(LAYER,)
)


def admit(
    volume: Volume, credentials: RegistryConfig, *, pinned: Digest | None = None, asker: Asker
) -> Image:
    return IMAGE


class Pressed:
    """A node whose limits want everything gone, just when an image is to be mounted."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def mount(self, image: Image, *, front: str, lent: Lent, watch: Watch) -> Tree:
        collect(self._layout, Limits(max_bytes=0))
        left = [layer for layer in image.layers if self._layout.payload(layer.cache_key).exists()]
        raise errors.NodeFault(f"{len(left)} layers are left")

    def is_here(self, image: Image, *, front: str) -> bool:
        return True

    def unmount(self, digest: Digest) -> None:
        pass

    def mounted(self) -> list[Digest]:
        return []


def test_what_never_was_promised_by_is_not_evicted_before_it_is_mounted(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    layout.make()
    layout.payload(LAYER.cache_key).write_bytes(b"payload")
    layout.image_index(cache_key(IMAGE.digest)).write_bytes(b"index")
    publisher = Publisher(layout, Pressed(layout), admit, *asking_nobody(layout))
    volume = volume_at(tmp_path / "target", pull_policy="Never")
    with pytest.raises(errors.NodeFault, match="1 layers are left"):
        publisher.publish(volume)
    assert list(layout.run.glob("*.use")) == []
    assert len(collect(layout, Limits(max_bytes=0)).removed) == 2


def volume_at(target: Path, *, pull_policy: PullPolicy = "IfNotPresent") -> Volume:
    return Volume(
        volume_id="v", target=target, image=IMAGE.reference, pull_policy=pull_policy,
        platform=host_platform(), front="auto", attributes={}, pod=POD,
        credentials=RegistryConfig.empty(),
    )  # fmt: skip


MOUNTED = Mounted(front="fuse", seconds=1.5, layers=1, complete=0, bytes_by_tier={"registry": 7})
HALF = WorkProgress(layer=1, layers=1, done_bytes=5, total_bytes=10, bytes_per_s=5)


class Folder:
    """A node whose images are a plain folder, shown once `gate` is set; `error` is how it fails."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.gate = threading.Event()
        self.told = threading.Event()
        self.error: errors.ClipError | None = None
        self.unmounted = 0
        self.made = 0

    def mount(self, image: Image, *, front: str, lent: Lent, watch: Watch) -> Tree:
        watch.tell(HALF)
        self.told.set()
        while watch.is_wanted() and not self.gate.wait(0.01):
            pass
        if self.error is not None:
            raise self.error
        self.made += 1
        return Tree(place=self._place, mounted=replace(MOUNTED, is_shared=self.made > 1))

    def is_here(self, image: Image, *, front: str) -> bool:
        return True

    def unmount(self, digest: Digest) -> None:
        self.unmounted += 1

    def mounted(self) -> list[Digest]:
        return []


@dataclass
class Heard(Reporter):
    """A reporter that keeps what it hears."""

    words: list[str] = field(default_factory=list)

    def resolved(self, volume: Volume, image: Image) -> None:
        self.words.append(f"resolved {image.digest[-4:]}")

    def indexing(self, volume: Volume, image: Image, progress: WorkProgress) -> None:
        if f"indexing {progress.done_bytes}" not in self.words:
            self.words.append(f"indexing {progress.done_bytes}")

    def mounted(self, volume: Volume, image: Image, mounted: Mounted) -> None:
        how = "shared" if mounted.is_shared else f"{mounted.seconds} s"
        self.words.append(f"mounted {mounted.front}, {how} {dict(mounted.bytes_by_tier)}")

    def failed(self, volume: Volume, error: errors.ClipError) -> None:
        self.words.append(f"failed: {error}")

    def gone(self, subject: Subject) -> None:
        self.words.append(f"gone {subject.volume_id}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("world\n")
    with cleaned_up(tmp_path):
        yield Folder(tmp_path / "tree")


@needs_fuse
def test_a_publish_that_conflicts_leaves_the_volume_that_is_there_its_credentials(
    folder: Folder, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "root")
    layout.make()
    sources = Sources([GivenSecret()], hosts_of=lambda registry: [registry])
    lending = Lending(sources)
    handing = Handing(layout.run / SOCKET, lending)
    publisher = Publisher(layout, folder, admit, Asking(sources, namespaces=()), handing)
    folder.gate.set()
    there = volume_at(tmp_path / "target")
    publisher.publish(there)
    with pytest.raises(VolumeConflict):
        publisher.publish(replace(there, attributes={"front": "fuse"}))
    assert lending.is_here(name_of(there.target))
    publisher.unpublish("v", there.target)
    assert not lending.is_here(name_of(there.target))
    publisher.end()


def publisher_on(
    tmp_path: Path, folder: Folder, heard: Heard, *, linger_s: float = LINGER_S
) -> Publisher:
    layout = Layout(tmp_path / "root")
    layout.make()
    asking, handing = asking_nobody(layout)
    return Publisher(layout, folder, admit, asking, handing, reporter=heard, linger_s=linger_s)


def sent_away(publisher: Publisher, volume: Volume) -> str:
    """What a call is told that has no time."""
    with pytest.raises(StillIndexing) as told:
        publisher.publish(volume, Call(answer_by=time.monotonic()))
    return str(told.value)


@needs_fuse
def test_whoever_watches_hears_of_a_volume_from_its_image_to_its_end(
    folder: Folder, tmp_path: Path
) -> None:
    heard = Heard()
    publisher = publisher_on(tmp_path, folder, heard)
    volume = volume_at(tmp_path / "target")
    wait_for(
        lambda: "h.io/a:1: indexing layer 1 of 1: 50%, 5 of 10" in sent_away(publisher, volume)
    )
    folder.gate.set()
    publisher.publish(volume)
    assert (tmp_path / "target/hello").read_text() == "world\n"
    publisher.publish(volume)
    publisher.unpublish("v", volume.target)
    assert [one for one in heard.words if not one.startswith("resolved")] == [
        "indexing 5", "mounted fuse, 1.5 s {'registry': 7}", "gone v"
    ]  # fmt: skip
    assert heard.words[0] == "resolved bbbb"
    assert folder.unmounted
    publisher.end()


def test_whoever_watches_hears_why_a_volume_fails_and_not_of_calls_that_come_again(
    folder: Folder, tmp_path: Path
) -> None:
    heard = Heard()
    publisher = publisher_on(tmp_path, folder, heard)
    volume = volume_at(tmp_path / "target")
    folder.error = errors.CorruptImage("spoiled")
    sent_away(publisher, volume)
    with pytest.raises(CallerGone):
        publisher.publish(volume, Call(still_wanted=lambda: False))
    folder.gate.set()
    with pytest.raises(errors.CorruptImage):
        publisher.publish(volume)
    assert [one for one in heard.words if one.startswith("failed")] == ["failed: spoiled"]
    publisher.unpublish("v", volume.target)
    assert heard.words[-1] == "gone v"
    publisher.end()


@needs_fuse
def test_what_a_tree_took_is_told_to_the_first_volume_that_shows_it_whoever_waited(
    folder: Folder, tmp_path: Path
) -> None:
    heard = Heard()
    publisher = publisher_on(tmp_path, folder, heard)
    first, second = volume_at(tmp_path / "first"), volume_at(tmp_path / "second")

    def is_begun() -> bool:
        with pytest.raises(StillIndexing):
            publisher.publish(first, Call(answer_by=time.monotonic()))
        return folder.told.is_set()

    wait_for(is_begun)
    folder.gate.set()
    wait_for(lambda: folder.made)  # between two calls
    publisher.publish(first)
    publisher.publish(second)
    assert [one for one in heard.words if one.startswith("mounted")] == [
        "mounted fuse, 1.5 s {'registry': 7}", "mounted fuse, shared {'registry': 7}"
    ]  # fmt: skip
    publisher.end()
