"""A publish that needs minutes: each call answered in time, the image downloaded once; then
those of pods that find it there.

A registry behind a relay with a pace, a driver on its socket, and calls as the kubelet's.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.kubelet import CALL_S, Answer, publish
from tests.support import images
from tests.support.counting_registry import counting_registry
from tests.support.driver import Driver, cleaned_up, run_driver
from tests.support.registry import run_registry
from tests.support.scraped import METRICS, scraped
from tests.support.throttle import throttle

EARLY_S = 5
"""What is promised: no answer that is not the volume comes sooner before its deadline."""

FINISHED_S = 1.0
"""What is promised of a publish whose image is on the node already."""

LATER_PODS = 10

FIGURES = re.compile(
    r"indexing layer \d+ of \d+: \d+%, .* of .*B, (.*/s, about .* left|nothing comes just now)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The image is random bytes, in layers of these sizes, which take `lasts_s` all together."""

    layers: tuple[int, ...] = (18_000_000, 12_000_000, 6_000_000)
    lasts_s: float = 365
    call_s: float = CALL_S


@dataclass(slots=True, kw_only=True)
class Report:
    """sent        bytes of each layer that the registry has sent, by digest; `layers` has sizes
    finished_s  what the driver's histogram says of each publish of a later pod
    """

    size: Size
    layers: dict[str, int]
    answers: list[Answer] = field(default_factory=list)
    finished_s: list[float] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    passed: int = 0
    is_right: bool = False

    @property
    def ratio(self) -> float:
        return sum(self.sent.values()) / sum(self.layers.values())

    def wrong(self) -> list[str]:
        """What is not as promised, time apart."""
        *waits, last = self.answers
        found = [f"{one.code}: {one.said}" for one in waits if one.code != "ABORTED"]
        if last.code != "OK":
            found.append(f"it ends with {last.code}: {last.said}")
        if self.sent != self.layers:
            found.append(f"the registry sent {self.sent}, the layers are {self.layers}")
        if not self.is_right:
            found.append("the volume does not show the image's bytes")
        return found

    def untimely(self) -> list[str]:
        """What is not so, or not when, it is promised of calls of two minutes."""
        total_s = self.answers[-1].began_s + self.answers[-1].took_s
        found = [f"no figures in: {one.said}" for one in self.answers[:-1] if not _tells(one)]
        found += [
            f"answered {self.size.call_s - one.took_s:.2f} s before its deadline"
            for one in self.answers[:-1]
            if not 0 < self.size.call_s - one.took_s <= EARLY_S
        ]
        if max(self.finished_s) > FINISHED_S:
            found.append(f"a publish of a finished image took {max(self.finished_s):.2f} s")
        if total_s < 360:
            found.append(f"it took {total_s:.0f} s, less than 6 minutes")
        return found

    def __str__(self) -> str:
        rows = [
            f"  call {number}: at {one.began_s:6.1f} s, answered after {one.took_s:6.2f} s, "
            f"{self.size.call_s - one.took_s:6.2f} s before its deadline: {one.code} {one.said}"
            for number, one in enumerate(self.answers, 1)
        ]
        total = sum(self.layers.values())
        end = self.answers[-1]
        return "\n".join(
            [
                f"slow-publish: {total} bytes in {len(self.layers)} layers at "
                f"{total / self.size.lasts_s:.0f} bytes/s",
                *rows,
                f"  the volume is there after {end.began_s + end.took_s:.1f} s and "
                f"{len(self.answers)} calls; its bytes are {'right' if self.is_right else 'WRONG'}",
                f"  bytes of layers from the registry: {sum(self.sent.values())}, {self.ratio:.3f} "
                f"times the image; all answers of the registry, heads included: {self.passed}",
                f"  publishes of {len(self.finished_s)} later pods: {min(self.finished_s):.3f} to "
                f"{max(self.finished_s):.3f} s",
            ]
        )


def run(home: Path, size: Size) -> Report:
    """One publish on a fresh node, to its end."""
    names = _make(home, size)
    with run_registry(home / "registry") as registry:
        name = images.push(home / "oci", registry.address, "slow/app:1").partition("/")[2]
        with (
            counting_registry(registry.address) as counting,
            throttle(counting.address) as pace,
            cleaned_up(home),
            run_driver(
                home / "d", ["--plain-http", pace.address, *METRICS], root=home / "root"
            ) as driver,
        ):
            report = Report(size=size, layers=_layers(home / "oci"))
            pace.bytes_per_s = sum(report.layers.values()) / size.lasts_s
            calls = publish(
                driver,
                "pod",
                f"{pace.address}/{name}",
                call_s=size.call_s,
                at_most_s=10 * size.lasts_s,
            )
            for answer in calls:
                report.answers.append(answer)
            report.sent = {one: counting.sent[one] for one in report.layers}
            report.passed, pace.bytes_per_s = pace.passed, None
            target = driver.target("pod")
            report.is_right = all(_hash(target / one) == told for one, told in names.items())
            report.finished_s = list(_later(driver, f"{pace.address}/{name}"))
            driver.unpublish("pod")
            return report


def _later(driver: Driver, image: str) -> Iterator[float]:
    """Seconds that the driver counts for the publish of each of LATER_PODS."""
    for number in range(LATER_PODS):
        before = scraped(driver)["clip_publish_seconds_sum", "OK"]
        driver.publish(f"later-{number}", image)
        yield scraped(driver)["clip_publish_seconds_sum", "OK"] - before
        driver.unpublish(f"later-{number}")


def _tells(answer: Answer) -> bool:
    """Whether it says how far the image is, as it must once there was time for a byte."""
    return FIGURES.search(answer.said) is not None


def _make(home: Path, size: Size) -> dict[str, str]:
    """An image with a file a layer; their digests by name."""
    packed, names = [], {}
    for number, count in enumerate(size.layers):
        folder = home / f"tree-{number}"
        folder.mkdir(parents=True)
        (folder / f"file-{number}").write_bytes(os.urandom(count))
        names[f"file-{number}"] = _hash(folder / f"file-{number}")
        packed.append(images.layer(folder, home / f"{number}.tar"))
    images.write_layout(home / "oci", packed)
    return names


def _layers(layout: Path) -> dict[str, int]:
    """Sizes of the image's blobs, its config apart, by digest."""

    def document(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return {one["digest"]: one["size"] for one in document(entry["digest"])["layers"]}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
