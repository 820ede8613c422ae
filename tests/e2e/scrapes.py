"""Metrics of the product in a real cluster, asked for as Prometheus does: from a pod."""

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.kubernetes import Cluster

Samples = dict[tuple[str, ...], float]
"""By name and label values."""


def samples(text: str) -> Samples:
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scrape(cluster: Cluster, address: str, *, asked_from: str) -> Samples:
    """What is told at HOST:PORT to a pod of the namespace default."""
    return samples(cluster.exec(asked_from, "wget", "-qO-", f"http://{address}/metrics"))
