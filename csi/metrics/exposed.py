"""The driver's metrics, read when they are asked for.

What reads, downloads and evictions there were is the sum of the counters of all processes on the
root, those that have ended too: it outlives servers and drivers, until `run/` is made anew. How
long publishes took is this driver's own, and begins with it.

Not here: who counts (`clipfs.mount.counters`); the HTTP server (`csi.metrics.http`).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from clipfs.layer.layout import Layout
from clipfs.mount import counters, figures, records
from clipfs.mount.figures import BOUNDS_S, TIERS, Figures, Numbers

PUBLISH_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""From a volume whose image is mounted already to the kubelet's two minutes."""


class Metrics:
    """All metrics of one driver, in `registry`."""

    def __init__(
        self, layout: Layout, *, version: str, cache_bytes: Callable[[], int | None]
    ) -> None:
        """cache_bytes  what the cache holds, as far as is known without a look at the disk"""
        # each of ours would have one more name
        disable_created_metrics()  # type: ignore[no-untyped-call] # theirs
        self.registry = CollectorRegistry()
        self._publishes = Histogram(
            "clip_publish_seconds",
            "NodePublishVolume calls, by gRPC code.",
            ["code"],
            buckets=PUBLISH_BOUNDS_S,
            registry=self.registry,
        )
        self._publishes.labels(StatusCode.OK.name)  # shown as 0 before there is one
        self.registry.register(_OfTheNode(layout, version, cache_bytes))

    def published(self, code: StatusCode, seconds: float) -> None:
        """One more call of NodePublishVolume has ended."""
        self._publishes.labels(code.name).observe(seconds)


class _OfTheNode(Collector):
    def __init__(self, layout: Layout, version: str, cache_bytes: Callable[[], int | None]) -> None:
        self._layout = layout
        self._version = version
        self._cache_bytes = cache_bytes

    def describe(self) -> Iterable[Metric]:
        return ()  # else registering would read the root

    def collect(self) -> Iterator[Metric]:
        numbers = counters.numbers_of_all(self._layout)
        yield from _of_tiers(figures.figures_of(numbers))
        yield _read_seconds(numbers)
        yield from _counts(numbers)
        living = len(records.living(self._layout))
        yield GaugeMetricFamily("clip_mounts", "Images whose trees are mounted now.", living)
        if (cached := self._cache_bytes()) is not None:
            yield GaugeMetricFamily("clip_cache_bytes", "Bytes that the cache holds.", cached)
        build = GaugeMetricFamily("clip_build_info", "The driver's version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build


def _of_tiers(by_tier: Figures) -> Iterator[Metric]:
    reads = CounterMetricFamily("clip_reads", "Reads that a tier answered.", labels=["tier"])
    moved = CounterMetricFamily(
        "clip_read_bytes", "Bytes that a tier returned or moved.", labels=["tier"]
    )
    for tier in TIERS:
        reads.add_metric([tier], by_tier[tier]["reads"])
        moved.add_metric([tier], by_tier[tier]["bytes"])
    yield reads
    yield moved
    for name, help_text, value in (
        ("clip_registry_download_bytes", "Bytes of blobs.", by_tier["registry"]["bytes"]),
        (
            "clip_content_cache_errors",
            "Requests to the content cache without a usable answer.",
            by_tier["content_cache"]["errors"],
        ),
        (
            "clip_chunk_verify_failures",
            "Answers of the content cache that did not verify.",
            by_tier["content_cache"]["verify_failures"],
        ),
    ):
        yield CounterMetricFamily(name, help_text, value)


def _read_seconds(numbers: Numbers) -> Metric:
    found = HistogramMetricFamily(
        "clip_read_seconds", "How long a tier took for a read.", labels=["tier"]
    )
    bounds = [*map(floatToGoString, BOUNDS_S), "+Inf"]
    for tier in TIERS:
        times = figures.times_of(numbers, tier)
        so_far = itertools.accumulate(times.counts)
        found.add_metric([tier], list(zip(bounds, so_far, strict=True)), times.seconds)
    return found


def _counts(numbers: Numbers) -> Iterator[Metric]:
    for name, help_text, value in (
        ("clip_failed_reads", "Reads that no tier could answer.", numbers[figures.FAILED]),
        ("clip_layers_indexed", "Layers indexed here by a first pass.", numbers[figures.INDEXED]),
        ("clip_cache_evictions", "Layers removed to make room.", numbers[figures.EVICTED]),
        ("clip_server_takeovers", "Dead servers whose mounts another serves on.", 0),
    ):
        yield CounterMetricFamily(name, help_text, value)
