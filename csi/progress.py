"""How far a mount on its way is: from the lines that `clipfs mount` tells to words for people.

    meter = Meter(image, clock)
    meter.told(line)             as it comes
    in_words(meter.progress())   "indexing layer 3 of 7: 41%, 1.2 of 2.9 GB, 85 MB/s, ..."

Pure. Not here: who starts the command and reads its pipe (`csi.command`); who waits (`csi.work`).
"""

from collections import deque
from collections.abc import Callable, Mapping

from clipfs.cli.progress import Phase, Told
from clipfs.cli.sizes import human_bytes, human_part
from clipfs.image.model import Image
from csi.status.reporter import WorkProgress
from csi.status.texts import layers_text

LATELY_S = 10
"""What speed is measured over: a registry's pace changes, and people look for seconds."""


class Meter:
    """Progress of one image's mount; clock is in seconds.

    bytes_by_tier  what the mount has read, once it has told so
    """

    def __init__(self, image: Image, clock: Callable[[], float], *, phase: Phase = "index") -> None:
        """phase  what is done before anything is told"""
        self._numbers: dict[str, int] = {}
        for number, layer in enumerate(image.layers, 1):
            self._numbers.setdefault(layer.digest, number)
        self._layers = len(image.layers)
        self._clock = clock
        self._phase = phase
        self._last: dict[str, Told] = {}
        self._samples: dict[str, deque[tuple[float, int]]] = {}
        self.bytes_by_tier: Mapping[str, int] = {}

    def told(self, line: Told) -> None:
        if line.phase != "prove":  # of one layer, while others are indexed
            self._phase = line.phase
        self.bytes_by_tier = line.bytes_by_tier or self.bytes_by_tier
        if line.digest in self._numbers:
            before = self._last.get(line.digest, line)
            self._last[line.digest] = line
            samples = self._samples.setdefault(line.digest, deque())
            if (line.phase, line.is_anothers) != (before.phase, before.is_anothers):
                samples.clear()
            samples.append((self._clock(), line.done_bytes))
            self._forget_old(samples)

    def progress(self) -> WorkProgress:
        """As of now: of the lowest layer of those on their way."""
        for digest, number in self._numbers.items():
            line = self._last.get(digest)
            if line is not None and line.done_bytes < line.total_bytes:
                return WorkProgress(
                    phase="prove" if line.phase == "prove" else self._phase,
                    layer=number,
                    layers=self._layers,
                    done_bytes=line.done_bytes,
                    total_bytes=line.total_bytes,
                    bytes_per_s=self._speed(digest),
                    is_anothers=line.is_anothers,
                )
        return WorkProgress(
            phase=self._phase,
            layer=0,
            layers=self._layers,
            done_bytes=0,
            total_bytes=0,
            bytes_per_s=0,
        )

    def _speed(self, digest: str) -> float:
        samples = self._samples[digest]
        self._forget_old(samples)
        begin_s, begin_bytes = samples[0]
        last_s, last_bytes = samples[-1]
        past_s = self._clock() - begin_s
        came = last_bytes - begin_bytes if last_s > self._clock() - LATELY_S else 0
        return max(0.0, came / past_s) if past_s > 0 else 0.0

    def _forget_old(self, samples: deque[tuple[float, int]]) -> None:
        """But for one before: from a slow registry something may come every 7 s."""
        while len(samples) > 1 and samples[1][0] < self._clock() - LATELY_S:
            samples.popleft()


def in_words(progress: WorkProgress | None) -> str:
    """One line; None: it has not begun."""
    if progress is None:
        return "waiting for its turn"
    if not progress.layer or progress.phase in ("merge", "mount"):
        return _phase_in_words(progress)
    of_layers = f"layer {progress.layer} of {progress.layers}"
    figures = _figures_in_words(progress)
    if progress.is_anothers:
        return f"{of_layers}: waiting for another node, which has {figures}"
    if progress.phase == "prove":
        return f"downloading {of_layers} as proof that its registry has it: {figures}"
    doing = "indexing" if progress.phase == "index" else "downloading"
    return f"{doing} {of_layers}: {figures}"


def _phase_in_words(progress: WorkProgress) -> str:
    layers = layers_text(progress.layers)
    return {
        "index": f"indexing {layers}",
        "prove": f"asking its registry for proof of {layers}",
        "merge": f"merging {layers} into one tree",
        "bring": f"bringing {layers} to this node's disk",
        "mount": "mounting",
    }[progress.phase]


def _figures_in_words(progress: WorkProgress) -> str:
    percent = 100 * progress.done_bytes // max(progress.total_bytes, 1)
    words = [f"{percent}%", human_part(progress.done_bytes, progress.total_bytes)]
    left_s = progress.left_s
    if left_s is None:
        words.append("nothing comes just now")
    else:
        words += [
            f"{human_bytes(progress.bytes_per_s)}/s",
            f"about {_time_in_words(left_s)} left",
        ]
    return ", ".join(words)


def _time_in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
