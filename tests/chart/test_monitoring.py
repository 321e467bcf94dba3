"""Alerts and dashboard speak of metrics that exist, with labels that exist; the guide says what to do about every alert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from chart_rendering import CHART, of_kind, one, render
from continual_contract.report import DriftState, Report, VersionScores
from continual_gateway.metrics import Metrics
from continual_operator.metrics import OperatorMetrics
from continual_workers.evaluation.metrics import EvaluatorMetrics
from continual_workers.inference.metrics import WorkerMetrics
from control_plane import ROOT
from prometheus_client import CollectorRegistry, generate_latest

ON = {
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    }
}
SAMPLE = re.compile(r"^(continual_\w+)(?:\{(.*)\})? ", re.MULTILINE)
EXPRESSION = re.compile(r"\b(continual_\w+)(?:\{([^}]*)\})?")
ADDED_BY_PROMETHEUS = {"namespace", "pod", "le"}


class LastReport:
    report: Report | None


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Name → labels, of everything that the four processes answer at /metrics once they have worked a little."""
    worker = CollectorRegistry()
    WorkerMetrics(worker, "digits", "v1").batch("stable", 1, 0.1)
    evaluator, reporting = CollectorRegistry(), LastReport()
    scores = VersionScores.model_construct(labels=1, recent_accuracy=1.0)
    reporting.report = a_report(versions={"v1": scores}, drift=DriftState.model_construct(alarms=1))
    evaluator.register(EvaluatorMetrics("here", "digits", reporting))
    operator, gateway = OperatorMetrics(), Metrics()
    operator.looked(timedelta(seconds=1), "Unavailable")
    operator.asked("get", "200")
    operator.decided("promote", "AccuracyHeld")
    gateway.requests.labels("/v2", "GET", "5xx").inc()
    gateway.seconds.labels("/v2").observe(1)
    found: dict[str, set[str]] = {}
    for registry in (worker, evaluator, operator.registry, gateway.registry):
        for name, labels in SAMPLE.findall(generate_latest(registry).decode()):
            found.setdefault(name, set()).update(part.partition("=")[0] for part in labels.split(",") if part)
    return found


def a_report(**parts: Any) -> Report:
    """As far as the metrics read it."""
    labels = type("Queue", (), {"received": 1, "unknown": 0, "throttled": 0})()
    return Report.model_construct(labels=labels, backlog=1, **parts)


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and what is asked of Prometheus."""
    manifests = render(ON)
    for group in of_kind(manifests, "PrometheusRule")[0]["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads(one(manifests, "ConfigMap", "continual-dashboard")["data"]["continual.json"])
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]


def test_every_metric_named_exists_with_the_labels_asked_for(metrics: dict[str, set[str]]) -> None:
    """A typo in an alert is an alert that never fires."""
    asked = list(expressions())
    assert len(asked) > 20
    for where, expression in asked:
        for name, matchers in EXPRESSION.findall(expression):
            assert name in metrics, f"{where}: {name}"
            labels = {re.split(r"[=!]", matcher.strip())[0] for matcher in matchers.split(",") if matcher.strip()}
            assert labels <= metrics[name] | ADDED_BY_PROMETHEUS, f"{where}: {name}"
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            names = {name for name, _ in EXPRESSION.findall(expression)}
            known = set.union(*(metrics[name] for name in names)) | ADDED_BY_PROMETHEUS
            assert {label.strip() for label in grouped.split(",")} <= known, f"{where}: by ({grouped})"


def test_an_unheard_metric_would_be_noticed(metrics: dict[str, set[str]]) -> None:
    """Mutation check of the names."""
    assert "continual_lags_seconds" not in metrics
    assert {
        "continual_lag_seconds",
        "continual_backlog",
        "continual_operator_leader",
        "continual_gateway_requests_total",
    } <= set(metrics)


def test_every_alert_says_what_to_do_and_stands_in_the_guide() -> None:
    """Summary and remedy in the alert; a row in docs/guides/operations.md."""
    guide = (ROOT / "docs/guides/operations.md").read_text()
    rules = [r for g in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"] for r in g["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert {"summary", "remedy"} == set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert f"| `{rule['alert']}` |" in guide


def test_monitors_select_what_the_chart_and_the_operator_label() -> None:
    """The services exist with these ports and labels; workers are found by the operator's label."""
    manifests = render(ON)
    monitor = of_kind(manifests, "ServiceMonitor")[0]["spec"]
    wanted = monitor["selector"]["matchLabels"]
    components = set(monitor["selector"]["matchExpressions"][0]["values"])
    ports = {endpoint["port"] for endpoint in monitor["endpoints"]}
    services = [s for s in of_kind(manifests, "Service") if wanted.items() <= s["metadata"]["labels"].items()]
    chosen = [s for s in services if s["metadata"]["labels"]["app.kubernetes.io/component"] in components]
    assert {s["metadata"]["name"] for s in chosen} == {"continual-operator", "continual-gateway"}
    assert {port["name"] for s in chosen for port in s["spec"]["ports"]} == ports
    pods = of_kind(manifests, "PodMonitor")[0]["spec"]
    assert pods["selector"]["matchLabels"] == {"app.kubernetes.io/managed-by": "continual-operator"}
    assert pods["namespaceSelector"] == {"matchNames": ["here"]}
