"""The evaluator's numbers for Prometheus, taken from its last report whenever somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from continual_contract.report import Report
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Reporting(Protocol):
    """Whatever has a last report."""

    report: Report | None


class EvaluatorMetrics(Collector):
    """Labels: namespace, model, version only."""

    def __init__(self, namespace: str, model: str, evaluator: Reporting) -> None:
        self._labels, self._evaluator = (namespace, model), evaluator

    def collect(self) -> Iterator[Metric]:
        report = self._evaluator.report
        if report is not None:
            yield from self._versions(report)
            yield from self._totals(report)

    def _versions(self, report: Report) -> Iterator[Metric]:
        names = ("namespace", "model", "version")
        accuracy = GaugeMetricFamily("continual_accuracy_ratio", "Accuracy over the last 500 labels.", labels=names)
        labels = CounterMetricFamily("continual_labels", "Labels joined with answers of a version.", labels=names)
        for version, scores in report.versions.items():
            labels.add_metric((*self._labels, version), scores.labels)
            if scores.recent_accuracy is not None:
                accuracy.add_metric((*self._labels, version), scores.recent_accuracy)
        yield accuracy
        yield labels

    def _totals(self, report: Report) -> Iterator[Metric]:
        names = ("namespace", "model")
        queue = report.labels
        for name, text, value in (
            ("continual_labels_received", "Labels read.", queue.received),
            ("continual_labels_unknown", "Labels of unknown requests or classes.", queue.unknown),
            ("continual_labels_throttled", "Labels beyond a labeler's quota.", queue.throttled),
            ("continual_drift_alarms", "Alarms of the drift detector.", report.drift.alarms if report.drift else 0),
        ):
            family = CounterMetricFamily(name, text, labels=names)
            family.add_metric(self._labels, value)
            yield family
        backlog = GaugeMetricFamily(
            "continual_backlog", "Undelivered and pending requests of the slowest owner.", labels=names
        )
        backlog.add_metric(self._labels, report.backlog)
        yield backlog
