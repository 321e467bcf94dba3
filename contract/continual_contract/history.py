"""How a model fared over time: a thinned copy of the evaluator's reports, for people who look.

A report is only the present, so a chart needs a memory. The evaluator appends a point to two capped streams in the same transaction
that writes the report: `history` (one every two seconds, the last hour) and `history:coarse` (one every five minutes, the last week).
Counts are cumulative, so whoever draws chooses the window: the accuracy between two points is a difference of counts. Nothing
is ever decided from it; losing it loses pictures only.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from continual_contract.artifacts import Frozen
from continual_contract.report import Report


@dataclass(frozen=True, slots=True)
class Resolution:
    """One of the two streams: how far apart its points are, and how many are kept."""

    suffix: str
    every_ms: int
    points: int


FINE = Resolution("history", 2_000, 1_800)
COARSE = Resolution("history:coarse", 300_000, 2_016)


class VersionPoint(Frozen):
    """One version's counts so far."""

    answers: int = 0
    labels: int = 0
    correct: int = 0
    p95_us: float | None = None
    """95th percentile of worker time per image, microseconds."""
    lag_seconds: float = 0.0


class PairPoint(Frozen):
    """The open gate's evidence: wealths are natural logarithms."""

    candidate: str
    baseline: str
    purpose: str
    pairs: int
    mean_gain: float
    gain_lower: float
    gain_upper: float
    log_wealth_not_inferior: float
    log_wealth_worse: float


class HistoryPoint(Frozen):
    """The report of one moment, as far as it is drawn."""

    time_ms: int
    versions: dict[str, VersionPoint] = Field(default_factory=dict)
    pair: PairPoint | None = None
    backlog: int = 0
    dead: int = 0
    drift_statistic: float | None = None
    """Log of the detector's statistic; None while it is not armed."""
    drift_threshold: float = 0.0
    drift_alarms: int = 0


def point_of(report: Report) -> HistoryPoint:
    """What of a report is kept."""
    drift = report.drift
    return HistoryPoint(
        time_ms=report.time_ms,
        versions={
            name: VersionPoint(
                answers=scores.answers,
                labels=scores.labels,
                correct=scores.correct,
                p95_us=scores.worker_us_p95,
                lag_seconds=round(report.lag_seconds.get(name, 0.0), 3),
            )
            for name, scores in report.versions.items()
        },
        pair=_pair_point(report),
        backlog=report.backlog,
        dead=report.dead,
        drift_statistic=round(drift.log_statistic, 4) if drift and drift.armed else None,
        drift_threshold=round(drift.log_threshold, 4) if drift else 0.0,
        drift_alarms=drift.alarms if drift else 0,
    )


def _pair_point(report: Report) -> PairPoint | None:
    pair = report.pair
    if pair is None:
        return None
    return PairPoint(
        candidate=pair.candidate,
        baseline=pair.baseline,
        purpose=pair.purpose,
        pairs=pair.pairs,
        mean_gain=round(pair.mean_gain, 5),
        gain_lower=round(pair.gain_lower, 5),
        gain_upper=round(pair.gain_upper, 5),
        log_wealth_not_inferior=round(pair.log_wealth_not_inferior, 4),
        log_wealth_worse=round(pair.log_wealth_worse, 4),
    )
