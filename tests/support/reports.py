"""Volumes and images to report of, and a reporter whose time the test makes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.image.model import Image, Layer
from clipfs.image.platform import parse_platform
from clipfs.image.reference import parse_reference
from csi.pod import Pod
from csi.status.cluster_reporter import ClusterReporter
from csi.status.mounts import Figures
from csi.status.reporter import Lack, Mounted, Reporter, Subject, WorkProgress
from csi.status.writer import StatusApi
from csi.volume import Volume

REFERENCE = "registry.example/app:1"
IMAGE = Image(
    reference=parse_reference(REFERENCE),
    digest=Digest("sha256:" + "1" * 64),
    layers=tuple(
        Layer(digest=Digest(f"sha256:{n:064}"), size=80_000_000, media_type="", diff_id=None)
        for n in range(3)
    ),
)
MOUNTED = Mounted(
    front="erofs",
    seconds=1.234,
    layers=3,
    complete=2,
    bytes_by_tier={"disk": 4_300_000, "content_cache": 430_000, "registry": 160_000_000},
)
PROGRESS = WorkProgress(
    layer=3, layers=7, done_bytes=1_200_000_000, total_bytes=2_900_000_000, bytes_per_s=85e6
)


def pod_named(name: str, namespace: str = "default", uid: str = "") -> Pod:
    return Pod(namespace=namespace, name=name, uid=uid or f"uid-of-{name}")


def volume_of(pod: Pod | None, volume_id: str = "csi-1") -> Volume:
    return Volume(
        volume_id=volume_id,
        target=Path("/target"),
        image=parse_reference(REFERENCE),
        pull_policy="IfNotPresent",
        platform=parse_platform("linux/amd64"),
        front="auto",
        attributes={"image": REFERENCE},
        pod=pod,
        credentials=RegistryConfig.empty(),
    )


@dataclass(slots=True)
class MadeTime:
    """Goes on only when it is told to."""

    now: float = 1_000_000.0

    def clock(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now - 1_000_000)


@dataclass(slots=True)
class Told:
    """A reporter without its thread: `run` writes what is due until a time has passed."""

    api: StatusApi
    figures: Figures = lambda digest: None
    time: MadeTime = field(default_factory=MadeTime)
    jitter: Callable[[], float] = lambda: 0.0
    node: str = "n1"
    reporter: ClusterReporter = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The next driver's reporter: it knows nothing of what this one has told."""
        self.reporter = ClusterReporter(
            self.api,
            self.node,
            self.figures,
            clock=self.time.clock,
            wall=self.time.wall,
            jitter=self.jitter,
        )

    def run(self, seconds: float = 2) -> None:
        end = self.time.now + seconds
        while True:
            wait_s = self.reporter.writer.step()
            if wait_s is None or self.time.now + wait_s > end:
                break
            self.time.now += max(wait_s, 1e-6)  # no clock stands still
        self.time.now = end


@dataclass
class Heard(Reporter):
    """Keeps what is said of volumes that are there, and not well."""

    words: list[str] = field(default_factory=list)

    def degraded(self, subject: Subject, reason: str, *, cause: Lack) -> None:
        self.words.append(f"{subject.pod}: {reason}")

    def recovered(self, subject: Subject, *, cause: Lack) -> None:
        self.words.append(f"{subject.pod}: well")

    def since(self) -> list[str]:
        found, self.words = self.words, []
        return found
