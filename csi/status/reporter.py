"""Who is told what becomes of a volume: the seam between the publisher and what people see.

Each method returns at once and never fails: a publish does not wait for an API server.

Not here: who tells the cluster (`csi.status.cluster_reporter`).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from clipfs.cli.progress import Phase
from clipfs.errors import ClipError
from clipfs.image.model import Image
from csi.pod import Pod
from csi.volume import Volume

Lack = Literal["server", "access"]
"""What a volume that is there may be without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkProgress:
    """How far the indexing of an image is; `csi.progress.in_words` says it to people.

    phase        what is done now
    layer        number of the layer that is under way, from 1, of `layers`; 0: none of them is
    done_bytes   of the blob's total_bytes; in the phase "bring" of its payload's
    bytes_per_s  lately; 0: nothing has come
    is_anothers  another node downloads it, and this one waits for that
    """

    phase: Phase = "index"
    layer: int
    layers: int
    done_bytes: int
    total_bytes: int
    bytes_per_s: float
    is_anothers: bool = False

    @property
    def left_s(self) -> float | None:
        """Until the layer's end, at this speed; None: nobody can tell."""
        if not self.bytes_per_s:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """A volume that is there.

    seconds        that the making of its image's mount took; 0: nobody knows
    bytes_by_tier  read for the mount so far, and by what made it: disk, content_cache, registry;
                   without those that nobody counts. What the kernel reads alone is not among them
    complete       how many of its layers are whole on this disk
    is_shared      another volume shows the mount already: it was not made for this one
    is_again       the volume was there, and its server had died
    """

    front: str
    seconds: float
    layers: int
    complete: int
    bytes_by_tier: Mapping[str, int]
    is_shared: bool = False
    is_again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom and what a report is about: one volume, as one pod has it.

    image  as the pod names it
    """

    volume_id: str
    image: str
    pod: Pod

    @property
    def key(self) -> tuple[str, str]:
        """A PersistentVolume is one volume id in many pods."""
        return self.volume_id, self.pod.uid


def subject_of(volume: Volume) -> Subject | None:
    """None where no kubelet said which pod it is for: then there is nobody to tell."""
    return subject_said(volume.volume_id, str(volume.image), volume.pod)


def subject_said(volume_id: str, image: str, pod: Pod | None) -> Subject | None:
    """The same, of what may be no volume: whatever is said of it."""
    if not volume_id or pod is None or not pod.uid:
        return None
    return Subject(volume_id=volume_id, image=image[:MAX_IMAGE_CHARACTERS], pod=pod)


MAX_IMAGE_CHARACTERS = 1_000
"""A reference is shorter; what is none may be as long as its pod's author likes."""


class Reporter:
    """Tells nobody: a subclass tells whom it knows, if anything of what it is told."""

    def running(self) -> AbstractContextManager[None]:
        """Tell while the block runs."""
        return nullcontext()

    def wanted(self, volume: Volume) -> None:
        """A publish of it has begun."""

    def resolved(self, volume: Volume, image: Image) -> None:
        """Its reference names this image; the pod may read it."""

    def indexing(self, volume: Volume, image: Image, progress: WorkProgress) -> None:
        """It waits for its image; told as often as anything is known."""

    def mounted(self, volume: Volume, image: Image, mounted: Mounted) -> None:
        """It is readable."""

    def failed(self, volume: Volume, error: ClipError) -> None:
        """A publish ends with this; its text says cause and way out."""

    def refused(self, subject: Subject, error: ClipError) -> None:
        """What its pod says of it makes no volume."""

    def adopted(self, subject: Subject, digest: str) -> None:
        """It is readable since an earlier driver's time."""

    def degraded(self, subject: Subject, reason: str, *, cause: Lack) -> None:
        """It is there, and something of it is missing: reason says what, and the way out."""

    def recovered(self, subject: Subject, *, cause: Lack) -> None:
        """It has that again."""

    def gone(self, subject: Subject) -> None:
        """It is unpublished."""
