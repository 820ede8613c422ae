"""What alerts and the dashboard ask for is what the driver and the content cache expose."""

import json
import re
from pathlib import Path

import pytest
import yaml
from grpc import StatusCode
from prometheus_client import generate_latest

from clipfs.content.counters import Counters
from clipfs.content.ledger import Usage
from clipfs.content.metrics import exposition
from clipfs.layer.layout import Layout
from csi.metrics.exposed import Metrics
from tests.support.helm import CHART, needs_helm, rendered, the

ALERTS = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((CHART / "files/dashboard.json").read_text())
_METRIC = re.compile(r"\bclip_[a-z_]+\b")
_LABELLED = re.compile(r"\b(clip_[a-z_]+)\{([^}]*)\}")
ADDED_BY_PROMETHEUS = {"node", "instance", "pod", "le"}


@pytest.fixture
def exposed(tmp_path: Path) -> dict[str, set[str]]:
    """Each metric that there is -> its labels."""
    layout = Layout(tmp_path)
    driver = Metrics(layout, version="1", cache_bytes=lambda: 1)
    driver.published(StatusCode.OK, 1)
    page = generate_latest(driver.registry).decode() + exposition(Counters(1), Usage())
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(clip_[a-z_]+)(?:\{(.*)\})? ", page, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"([a-z]+)=", labels))
    return found


def _expressions() -> dict[str, str]:
    panels = DASHBOARD["panels"]
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }
    return found | {rule["alert"]: rule["expr"] for rule in ALERTS}


@pytest.mark.parametrize("name", _expressions())
def test_an_expression_asks_for_metrics_and_labels_that_there_are(
    name: str, exposed: dict[str, set[str]]
) -> None:
    expression = _expressions()[name]
    metrics = _METRIC.findall(expression)
    assert metrics
    assert [one for one in metrics if one not in exposed] == []
    labels = {label for one in metrics for label in exposed[one]} | ADDED_BY_PROMETHEUS
    for metric, matchers in _LABELLED.findall(expression):
        asked = set(re.findall(r"([a-z]+)(?:=~|!~|!=|=)", matchers))
        assert asked <= exposed[metric] | ADDED_BY_PROMETHEUS
    for by in re.findall(r"by \(([^)]*)\)", expression):
        assert set(by.split(", ")) <= labels


def test_the_dashboard_shows_what_is_asked_of_it() -> None:
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    assert titles >= {"Bytes by tier", "Hit ratio", "Publish latency", "Errors"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    "metric",
    [
        "clip_failed_reads_total",
        "clip_chunk_verify_failures_total",
        "clip_content_cache_errors_total",
        "clip_publish_seconds_count",
    ],
)
def test_what_goes_wrong_is_shown_and_alerts(metric: str) -> None:
    [errors] = [panel for panel in DASHBOARD["panels"] if panel["title"] == "Errors"]
    assert any(metric in target["expr"] for target in errors["targets"])
    assert any(metric in rule["expr"] for rule in ALERTS)


def test_every_alert_says_what_is_wrong_and_where_to_look() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert len(rule["annotations"]["summary"]) > 20
        assert len(rule["annotations"]["description"]) > 20


@needs_helm
def test_what_is_rendered_is_what_is_looked_at_here() -> None:
    objects = rendered(operators=True)
    rule = the(objects, "PrometheusRule", "clip")
    assert rule["spec"]["groups"][0]["rules"] == ALERTS
    dashboard = the(objects, "ConfigMap", "clip-dashboard")
    assert json.loads(dashboard["data"]["clip-csi.json"]) == DASHBOARD


@needs_helm
def test_monitors_find_the_pods_and_their_ports() -> None:
    objects = rendered(operators=True)
    pods = the(objects, "PodMonitor", "clip-node")["spec"]
    template = the(objects, "DaemonSet", "clip-node")["spec"]["template"]
    assert pods["selector"]["matchLabels"] == template["metadata"]["labels"]
    ports = {one["name"] for one in template["spec"]["containers"][0]["ports"]}
    assert {one["port"] for one in pods["podMetricsEndpoints"]} == ports
    services = the(objects, "ServiceMonitor", "clip-content-cache")["spec"]
    service = the(objects, "Service", "clip-content-cache")
    assert services["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert services["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
