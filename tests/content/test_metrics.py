"""The counters as Prometheus reads them: summed over processes, kept when one dies."""

import os

from prometheus_client.parser import text_string_to_metric_families

from clipfs.content import counters as count
from clipfs.content.counters import Counters
from clipfs.content.ledger import Usage
from clipfs.content.metrics import exposition


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_processes_counted_is_summed_and_outlives_them() -> None:
    counters = Counters(2)
    for number, counts in enumerate(counters.workers, start=1):
        if not (pid := os.fork()):
            counts[count.SENT_BYTES] += 1 << 40
            counts[count.request("GET", 206)] += number
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    found = samples(exposition(counters, Usage()))
    assert found["clip_content_cache_sent_bytes_total",] == 2 << 40
    assert found["clip_content_cache_requests_total", "GET", "2xx"] == 3


def test_every_method_and_status_has_a_place_of_its_own() -> None:
    counters = Counters(1)
    kinds = [(method, status) for method in count.METHODS for status in range(100, 600, 100)]
    for number, (method, status) in enumerate(kinds, start=1):
        counters.parent[count.request(method, status)] += number
    found = samples(exposition(counters, Usage()))
    for number, (method, status) in enumerate(kinds, start=1):
        name = ("clip_content_cache_requests_total", method, f"{status // 100}xx")
        assert found[name] == number
    assert count.request("BREW", 418) == count.request("other", 400)


def test_what_the_store_keeps_is_shown() -> None:
    found = samples(exposition(Counters(1), Usage(bytes=123, evictions=4)))
    assert found["clip_content_cache_disk_bytes",] == 123
    assert found["clip_content_cache_evictions_total",] == 4


def test_a_change_by_any_process_is_seen() -> None:
    counters = Counters(2)
    seen = bytes(counters.changes)
    assert counters.changes == seen
    counters.changed(1)
    assert counters.changes != seen
