"""The counters as Prometheus reads them.

Names: `clip_content_cache_<what>[_<unit>][_total]`. Counted since the server's start.
Source: Prometheus, "Metric and label naming"; text exposition format.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clipfs.content import counters as count
from clipfs.content.counters import METHODS, Counters
from clipfs.content.ledger import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "clip_content_cache_"
_COUNTERS = {
    count.SENT_BYTES: ("sent_bytes", "Bytes of answers sent, before TLS."),
    count.SENT_PAGE_BYTES: ("sent_page_bytes", "Bytes of layers' payloads sent, without heads."),
    count.RECEIVED_BYTES: ("received_bytes", "Bytes of requests received, after TLS."),
    count.ACCEPTED: ("connections", "Connections accepted."),
    count.REFUSED: ("refused_connections", "Connections closed because too many were open."),
    count.RESTARTS: ("worker_restarts", "Worker processes that died and were replaced."),
}


def exposition(counters: Counters, usage: Usage) -> str:
    registry = CollectorRegistry()
    registry.register(_Collected(counters, usage))
    return generate_latest(registry).decode()


class _Collected(Collector):
    def __init__(self, counters: Counters, usage: Usage) -> None:
        self._counters = counters
        self._usage = usage

    def collect(self) -> Iterable[Metric]:
        total = self._counters.sum
        requests = CounterMetricFamily(
            f"{_PREFIX}requests", "Requests answered.", labels=["method", "status"]
        )
        for method in METHODS:
            for status in range(100, 600, 100):
                if number := total(count.request(method, status)):
                    requests.add_metric([method, f"{status // 100}xx"], number)
        yield requests
        lookups = CounterMetricFamily(
            f"{_PREFIX}lookups", "Objects that GET or HEAD asked for.", labels=["result"]
        )
        lookups.add_metric(["found"], total(count.FOUND))
        lookups.add_metric(["missed"], total(count.MISSED))
        yield lookups
        for number, (name, help_text) in _COUNTERS.items():
            yield CounterMetricFamily(_PREFIX + name, help_text, value=total(number))
        yield GaugeMetricFamily(
            f"{_PREFIX}open_connections", "Connections open now.", value=total(count.OPEN)
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}disk_bytes", "Bytes of all objects.", value=self._usage.bytes
        )
        yield CounterMetricFamily(
            f"{_PREFIX}evictions", "Layers evicted for want of space.", value=self._usage.evictions
        )
