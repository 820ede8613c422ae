"""Makes an image's tree appear on the node: by launching `clipfs mount`, once an image.

The server that this leaves behind is nobody's child and outlives the driver; the command
itself does not (`csi.command`).
"""

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.image.model import Image
from clipfs.image.resolved import Resolved
from clipfs.layer.layout import Layout
from clipfs.layer.seal import KeyRing
from clipfs.mount.unmount import unmount
from clipfs.tiers.origins import lacks_origin
from csi.access.known import is_whole
from csi.collector import Collector
from csi.command import run_index, run_mount
from csi.credentials.handing import SOCKET
from csi.credentials.lending import Lent
from csi.errors import CallerGone
from csi.launcher import Launcher
from csi.places import Places
from csi.progress import Meter
from csi.status.figures import Made, made_records, mounted_by
from csi.status.reporter import Mounted, WorkProgress

SERVER_END_S = 2
"""A server ends within milliseconds, unless it still stores layers or is frozen: let it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An image's tree at `place`, and what its mount came to."""

    place: Path
    mounted: Mounted


class Watch(Protocol):
    """Who waits for a mount, and may not any more."""

    def is_wanted(self) -> bool:
        """Asked now and then; once it says no, the mount is given up."""

    def tell(self, progress: WorkProgress) -> None:
        """How far it is; told as often as anything is known."""


class Mounter(Protocol):
    """Images on this node, each mounted once for each front, and for registries that begin at the
    same time."""

    def mount(self, image: Image, *, front: str, lent: Lent, watch: Watch) -> Tree:
        """image's tree, mounted now or before; not to be called twice at once for one image of
        one registry.

        Raises  the ClipError that says why it cannot be, CallerGone if watch wants it no more;
                then nothing of it is left
        """

    def is_here(self, image: Image, *, front: str) -> bool:
        """Whether `mount` needs nothing from afar, the proof of a layer of others among that."""

    def unmount(self, digest: Digest) -> None:
        """Take the image's tree away; done already is done."""

    def mounted(self) -> list[Digest]:
        """The images whose trees are here, alive or dead."""


@dataclass(slots=True)
class _Watched:
    """A watch that is told how far a command is whenever that asks whether it is wanted."""

    watch: Watch
    meter: Meter
    given_up: bool = False

    def is_wanted(self) -> bool:
        self.watch.tell(self.meter.progress())
        self.given_up = self.given_up or not self.watch.is_wanted()
        return not self.given_up


class _Error(msgspec.Struct):
    code: str
    message: str


class _Layer(msgspec.Struct):
    complete: bool


class _Outcome(msgspec.Struct):
    """What `clipfs mount --json` says."""

    error: _Error | None = None
    front: str = ""
    layers: list[_Layer] = []
    seconds: dict[str, float] = {}


class ClipMounter:
    """Mounts below `run/images/`, with the options that the driver was given."""

    def __init__(
        self,
        layout: Layout,
        keys: KeyRing,
        launcher: Launcher,
        *,
        image_options: Sequence[str],
        mount_options: Sequence[str],
        collector: Collector,
    ) -> None:
        """keys  that sign origin records
        launcher  runs, whenever this is asked for anything
        image_options, mount_options  of every command with an image, and of `clipfs mount` alone
        """
        self._layout = layout
        self._keys = keys
        self._launcher = launcher
        self._image_options = image_options
        self._mount_options = mount_options
        self._collector = collector
        self._places = Places(layout)
        self._made = made_records(layout)

    def mount(self, image: Image, *, front: str, lent: Lent, watch: Watch) -> Tree:
        there = self._places.living(image, front)
        if there is not None:
            if lacks_origin(self._layout, self._keys, image):
                self._prove(image, lent, watch)
            place, record = there
            return Tree(place=place, mounted=mounted_by(self._layout, [record]))
        with self._places.free(image.digest) as place:
            self._take_away(place, wait_s=0)  # a mount whose server died serves nobody
            self._collector.make_room()
            try:
                return Tree(place=place, mounted=self._launched(image, place, front, lent, watch))
            except BaseException:
                self._take_away(place, wait_s=SERVER_END_S)
                raise
            finally:
                self._collector.soon()

    def is_here(self, image: Image, *, front: str) -> bool:
        is_here = self._places.living(image, front) is not None or is_whole(self._layout, image)
        return is_here and not lacks_origin(self._layout, self._keys, image)

    def _launched(self, image: Image, place: Path, front: str, lent: Lent, watch: Watch) -> Mounted:
        meter = Meter(image, time.monotonic)
        watched = _Watched(watch, meter)
        watch.tell(meter.progress())
        reference = image.reference.with_digest(image.digest)
        done = run_mount(
            self._launcher,
            [
                *(str(reference), str(place), "--front", front),
                *self._image_options,
                *self._mount_options,
                *("--credentials-socket", str(self._layout.run / SOCKET)),
                *("--credentials-of", lent.volume),
            ],
            {
                "--registry-config": lent.config.to_json(),
                "--resolved": msgspec.json.encode(Resolved.of(image)),
            },
            on_told=meter.told,
            is_wanted=watched.is_wanted,
        )
        if watched.given_up:
            raise _nobody_wants(image)
        outcome = _outcome(done, image)
        seconds = outcome.seconds.get("total", 0)
        made = Made(seconds=seconds, bytes_by_tier=dict(meter.bytes_by_tier))
        self._made.write(place.name, made)
        return Mounted(
            front=outcome.front,
            seconds=seconds,
            layers=len(outcome.layers),
            complete=sum(layer.complete for layer in outcome.layers),
            bytes_by_tier=meter.bytes_by_tier,
        )

    def _prove(self, image: Image, lent: Lent, watch: Watch) -> None:
        """Have the image's own registry deliver what another one has brought to this node."""
        meter = Meter(image, time.monotonic, phase="prove")
        watched = _Watched(watch, meter)
        done = run_index(
            self._launcher,
            [str(image.reference.with_digest(image.digest)), *self._image_options],
            {"--registry-config": lent.config.to_json()},
            on_told=meter.told,
            is_wanted=watched.is_wanted,
        )
        if watched.given_up:
            raise _nobody_wants(image)
        _outcome(done, image)

    def unmount(self, digest: Digest) -> None:
        for place in self._places.of(digest):
            self._take_away(place, wait_s=SERVER_END_S)
        self._collector.soon()

    def mounted(self) -> list[Digest]:
        return self._places.digests()

    def _take_away(self, place: Path, *, wait_s: float) -> None:
        unmount(self._layout, place, wait_s=wait_s)
        self._made.remove(place.name)
        with suppress(OSError):
            place.rmdir()


def _nobody_wants(image: Image) -> CallerGone:
    return CallerGone(f"{image.reference}: nobody wants it any more, its mount was stopped")


def _outcome(done: subprocess.CompletedProcess[bytes], image: Image) -> _Outcome:
    """What the command came to; the ClipError that it ended with, as of the pod's name for it."""
    named = str(image.reference)
    try:
        outcome = msgspec.json.decode(done.stdout, type=_Outcome)
    except msgspec.DecodeError as error:
        raise errors.NodeFault(
            f"{named}: clipfs ended with status {done.returncode} and without a word; see the "
            "driver's log"
        ) from error
    if outcome.error is not None:
        said = outcome.error.message.replace(str(image.reference.with_digest(image.digest)), named)
        raise errors.error_of_code(
            outcome.error.code, said if named in said else f"{named}: {said}"
        )
    return outcome
