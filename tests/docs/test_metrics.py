"""docs/operations.md says of each metric what it is, and of none that there is not."""

import re
from pathlib import Path

import yaml
from grpc import StatusCode
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from clipfs.content.counters import Counters
from clipfs.content.ledger import Usage
from clipfs.content.metrics import exposition
from clipfs.layer.layout import Layout
from csi.metrics.exposed import Metrics
from tests.docs.texts import DOCS, ROOT

_ROW = re.compile(r"^\| (`clip_[^|]*) \|", re.MULTILINE)


def test_each_metric_has_a_row_and_each_row_is_of_a_metric(tmp_path: Path) -> None:
    driver = Metrics(Layout(tmp_path), version="1", cache_bytes=lambda: 1)
    driver.published(StatusCode.OK, 1)
    kept = exposition(Counters(1), Usage())
    exposed = {*_names(generate_latest(driver.registry).decode()), *_names(kept)}
    rows = " ".join(_ROW.findall(DOCS["operations.md"]))
    assert len(exposed) > 20
    assert set(re.findall(r"clip_[a-z_]+", rows)) == exposed


def test_each_alert_of_the_chart_has_a_row_and_each_row_is_of_an_alert() -> None:
    groups = yaml.safe_load((ROOT / "charts/clip-csi/files/alerts.yaml").read_text())["groups"]
    rows = re.findall(r"^\| `(Clip\w+)` \| ([^|]*) \|", DOCS["operations.md"], re.MULTILINE)
    of_chart = {
        rule["alert"]: set(re.findall(r"clip_[a-z_]+", rule["expr"]))
        for group in groups
        for rule in group["rules"]
    }
    assert {name: set(re.findall(r"clip_[a-z_]+", said)) for name, said in rows} == of_chart


def _names(page: str) -> set[str]:
    """As a query names them, histograms without their parts."""
    return {
        f"{one.name}_total" if one.type == "counter" else one.name
        for one in text_string_to_metric_families(page)
        if one.name.startswith("clip_") and not one.name.endswith("_created")
    }
