"""Volumes that are there and are published again: what the kubelet brings counts from then on.

    renewal.again(digest, volume)     returns at once
    renewal.gone(volume.target)       nothing more is asked or told of it

Where the CSIDriver has requiresRepublish the kubelet publishes each volume again, about once a
minute, with its secret and its tokens as they are now. Access is proved with them behind the
call. Whatever comes of that, the volume stays: a refusal is told once, no answer changes nothing.

Not here: the servers that are lent what came (`csi.credentials.lending`).
Source: Kubernetes, CSIDriver `requiresRepublish`; pkg/volume/csi/csi_mounter.go.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clipfs import errors
from clipfs.image.credentials import RegistryConfig
from clipfs.image.digest import Digest
from clipfs.log import log
from csi.about import lines_about
from csi.credentials.asking import Asking
from csi.credentials.handing import Handing
from csi.credentials.sources import Chosen
from csi.errors import RefusedByPolicy
from csi.status.reporter import Reporter, subject_of
from csi.volume import Volume

AT_ONCE = 4
"""Questions under way: a registry that is away holds each of them for a while."""

CHOSEN_S = 300
"""How long a source's answer serves: a look at pull secrets is some requests of the cluster."""

END_S = 2
"""For the questions that are under way when the driver ends."""

REFUSALS = (
    errors.Unauthenticated,
    errors.AccessDenied,
    errors.ImageNotFound,
    errors.InvalidInput,
    RefusedByPolicy,
)
"""What is told; all else says nothing about the volume's rights."""

Prove = Callable[[Volume, Digest, RegistryConfig], object]
"""Whether who holds these credentials may read the volume's image; a ClipError if not."""


@dataclass(slots=True, eq=False)
class _Known:
    """A volume as it was published last.

    chosen   what was shown for it, good until `until`
    refused  code of the error that was told; empty: it may read its image
    """

    digest: Digest
    volume: Volume
    chosen: Chosen | None = None
    until: float = 0
    refused: str = ""
    is_waiting: bool = False
    is_asked: bool = False


@dataclass(slots=True, eq=False)
class Renewal:
    prove: Prove
    asking: Asking
    handing: Handing
    reporter: Reporter
    clock: Callable[[], float] = time.monotonic
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[Path, _Known] = field(default_factory=dict)
    _threads: set[threading.Thread] = field(default_factory=set)

    def again(self, digest: Digest, volume: Volume) -> None:
        """volume, which shows the image digest, is published once more."""
        self.handing.volume_here(digest, volume)
        with self._guard:
            known = self._known.setdefault(volume.target, _Known(digest, volume))
            before, known.volume, known.digest = known.volume, volume, digest
            if _brought(before) != _brought(volume):
                known.chosen = None
            known.is_waiting = True
            if len(self._threads) < AT_ONCE:
                thread = threading.Thread(target=self._work, name="renewal", daemon=True)
                self._threads.add(thread)
                thread.start()

    def gone(self, target: Path) -> None:
        with self._guard:
            self._known.pop(target, None)

    def end(self) -> None:
        """Ask nothing more."""
        with self._guard:
            self._known.clear()
            threads = list(self._threads)
        end = time.monotonic() + END_S
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))

    def _work(self) -> None:
        """One after another, until nobody waits."""
        while (known := self._next()) is not None:
            volume = known.volume
            about = lines_about(
                volume.volume_id, pod=str(volume.pod or ""), image=str(volume.image)
            )
            with about:
                try:
                    self._prove(known, volume)
                except Exception:  # a bug here costs a proof, not volumes
                    log.exception("proving access again failed, this is a bug")
            with self._guard:
                known.is_asked = False

    def _next(self) -> _Known | None:
        with self._guard:
            for known in self._known.values():
                if known.is_waiting and not known.is_asked:
                    known.is_waiting, known.is_asked = False, True
                    return known
            self._threads.discard(threading.current_thread())
            return None

    def _prove(self, known: _Known, volume: Volume) -> None:
        first = known.chosen if self.clock() < known.until else None

        def question(config: RegistryConfig) -> object:
            return self.prove(volume, known.digest, config)

        try:
            _, chosen = self.asking.ask(volume, question, first=first)
        except REFUSALS as refusal:
            self._refused(known, volume, refusal)
        except errors.ClipError as error:
            log.info("access cannot be proved again now, the volume stays", error=str(error))
        else:
            self._allowed(known, volume, chosen, is_new=chosen != first)

    def _refused(self, known: _Known, volume: Volume, refusal: errors.ClipError) -> None:
        with self._guard:
            known.chosen = None
            if known.refused == refusal.code or self._known.get(volume.target) is not known:
                return
            known.refused = refusal.code
            log.warning("access is refused by now, the volume stays", error=str(refusal))
            if (subject := subject_of(volume)) is not None:
                self.reporter.degraded(subject, refused_text(refusal), cause="access")

    def _allowed(self, known: _Known, volume: Volume, chosen: Chosen, *, is_new: bool) -> None:
        with self._guard:
            if is_new and _brought(known.volume) == _brought(volume):
                known.chosen, known.until = chosen, self.clock() + CHOSEN_S
            if not known.refused or self._known.get(volume.target) is not known:
                return
            known.refused = ""
            log.info("access is given again")
            if (subject := subject_of(volume)) is not None:
                self.reporter.recovered(subject, cause="access")


def _brought(volume: Volume) -> tuple[object, ...]:
    """What the kubelet has sent with it."""
    return volume.credentials, volume.secret_fault, volume.tokens


def refused_text(refusal: errors.ClipError) -> str:
    return f"access is refused by now, reads of what this node lacks may fail: {refusal}"
