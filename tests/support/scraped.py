"""What a driver's --metrics port says, read as Prometheus and the kubelet's probes read it."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.driver import Driver
from tests.support.wait import wait_for

METRICS = ("--metrics", "127.0.0.1:0")


class Scraped:
    """One scrape: samples by name and label values, and the families' types."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self._families = {family.name: family for family in families}
        self._values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
        }

    def __getitem__(self, key: str | tuple[str, ...]) -> float:
        return self._values[(key,) if isinstance(key, str) else key]

    def values_of(self, family: str) -> dict[str, set[str]]:
        """Every label of a family with the values that it has; the bounds of classes apart."""
        found: dict[str, set[str]] = {}
        for sample in self._families[family].samples:
            for name, value in sample.labels.items():
                if name != "le":
                    found.setdefault(name, set()).add(value)
        return found

    def totals(self) -> dict[tuple[str, ...], float]:
        """What must never fall: counters, and the counts and sums of histograms."""
        ends = ("_total", "_count", "_sum", "_bucket")
        return {key: value for key, value in self._values.items() if key[0].endswith(ends)}


def metrics_address(driver: Driver) -> str:
    """HOST:PORT of the driver that runs now: it is told in its log."""

    def told() -> str | None:
        found = [line for line in driver.lines() if line["event"] == "metrics are served"]
        return str(found[-1]["address"]) if found else None

    return wait_for(told)


@contextmanager
def asked(address: str, path: str, method: str = "GET") -> Iterator[http.client.HTTPResponse]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)
    try:
        connection.request(method, path)
        yield connection.getresponse()
    finally:
        connection.close()


def page(address: str, path: str) -> tuple[int, str]:
    with asked(address, path) as answer:
        return answer.status, answer.read().decode()


def scraped(driver: Driver) -> Scraped:
    status, text = page(metrics_address(driver), "/metrics")
    assert status == 200, text
    return Scraped(text)


def listening_ports(pid: int) -> list[int]:
    """TCP ports that the process listens on."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.append(int(fields[1].rpartition(":")[2], 16))
    return found
