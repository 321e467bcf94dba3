"""Watch one version's labelled errors for drift: the e-detector, and River's ADWIN as a second opinion.

The watch begins after the verdict that made the version stable: the canary's own evidence is selected, and a baseline
taken from it would call every honest version drifting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from continual_contract.config import DriftWatch
from continual_contract.report import DriftState
from river.drift import ADWIN

from continual_workers.evaluation.statistics import EDetector

CHUNK = 1000
SECOND_OPINION_SPAN = 50_000
"""Labels after which ADWIN starts anew: it bounds what must be replayed to rebuild it."""


def _adwin() -> ADWIN:
    return ADWIN()  # type: ignore[no-untyped-call]  # river has no annotations


class Watch:
    """One DriftWatch. ADWIN keeps no state we could store, so the errors it has seen are kept as marks and replayed."""

    def __init__(self, order: DriftWatch) -> None:
        self.order = order
        self.detector = EDetector(order.false_alarm_every)
        self.last_alarm_request: str | None = None
        self.last_alarm_labels: int | None = None
        self.second_opinion = False
        self.marks = bytearray()
        self._adwin = _adwin()

    def update(self, request_id: str, error: bool) -> None:
        if self.detector.update(error):
            self.last_alarm_request, self.last_alarm_labels = request_id, self.detector.labels
        if len(self.marks) >= SECOND_OPINION_SPAN:
            self.marks, self._adwin = bytearray(), _adwin()
        self.marks.append(49 if error else 48)
        self._ask(error)

    def _ask(self, error: bool) -> None:
        before = self._adwin.estimation
        self._adwin.update(float(error))  # type: ignore[no-untyped-call]  # river has no annotations
        if self._adwin.drift_detected and self._adwin.estimation > before:
            self.second_opinion = True

    def report(self) -> DriftState:
        detector = self.detector
        return DriftState(
            version=self.order.version,
            armed=detector.armed,
            labels=detector.labels,
            baseline_error=detector.baseline,
            log_statistic=detector.log_statistic,
            log_threshold=detector.log_threshold,
            alarms=detector.alarms,
            last_alarm_request=self.last_alarm_request,
            last_alarm_labels=self.last_alarm_labels,
            second_opinion=self.second_opinion,
        )

    def dump(self) -> dict[str, Any]:
        """Everything but the marks, which are kept in chunks (`chunks`)."""
        return {
            "order": self.order.model_dump(mode="json"), "detector": self.detector.dump(),
            "request": self.last_alarm_request, "labels": self.last_alarm_labels, "second": self.second_opinion,
        }  # fmt: skip

    @classmethod
    def load(cls, state: Mapping[str, Any], marks: str) -> Watch:
        watch = cls(DriftWatch.model_validate(state["order"]))
        watch.detector = EDetector.load(state["detector"])
        watch.last_alarm_request, watch.last_alarm_labels = state["request"], state["labels"]
        for mark in marks:
            watch._ask(mark == "1")
        watch.marks, watch.second_opinion = bytearray(marks.encode()), state["second"]
        return watch
