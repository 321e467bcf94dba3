"""The curves of a model's page as columns of numbers: what uPlot draws, decided here.

Times are seconds since 1970. A column has one value per time, null where a version was not there. Bands are the times in which a
candidate was in the shadow, a canary or on probation; marks are moments at which something was decided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from continual_contract.history import HistoryPoint, VersionPoint

from continual_gateway.views import text
from continual_gateway.views.overview import windowed
from continual_gateway.views.snapshot import Snapshot

ACCURACY_LABELS = 100
"""How many labels one point of the accuracy curve looks back on."""
MAX_POINTS = 600
BAND_STARTS = {"Shadow": "shadow", "Canary": "canary", "Step": "canary", "Probation": "probation"}
BAND_ENDS = frozenset({"Rollback", "Reject", "Pass", "Restore", "Supersede"})
MARKS = {
    "Promote": "good", "Probation": "good", "Restore": "warn", "Rollback": "bad", "Reject": "bad", "DriftAlarm": "bad",
    "Train": "busy", "Force": "warn",
}  # fmt: skip

Chart = dict[str, Any]
"""`{times, series: [{label, version?, values, low?, high?}], bands, marks, unit, …}`: JSON for the page's script."""


def charts(snapshot: Snapshot, minutes: int = 60) -> dict[str, Chart]:
    """All curves over the last `minutes`: of the fine history up to an hour, else of the coarse one."""
    points = _points(snapshot, minutes)
    marks, bands = _marks(snapshot, points), _bands(snapshot, points)
    shared = {"bands": bands, "marks": marks}
    return {
        "accuracy": _accuracy(points) | shared,
        "evidence": _evidence(points, snapshot) | shared,
        "drift": _drift(points) | shared,
        "lag": _lag(points) | shared,
        "latency": _per_version(points, lambda v: None if v.p95_us is None else v.p95_us / 1000, "ms") | shared,
        "throughput": _throughput(points) | shared,
        "training": _training(snapshot),
    }


def _points(snapshot: Snapshot, minutes: int) -> list[HistoryPoint]:
    """Of the two histories the one that reaches far enough, with the fine one as its end; thinned to MAX_POINTS."""
    start = snapshot.now_ms - minutes * 60_000
    fine = [point for point in snapshot.fine if point.time_ms >= start]
    before = fine[0].time_ms if fine else snapshot.now_ms
    coarse = [point for point in snapshot.coarse if start <= point.time_ms < before]
    points = [*coarse, *fine]
    stride = math.ceil(len(points) / MAX_POINTS)
    return points[::-stride][::-1] if stride > 1 else points


def _times(points: Sequence[HistoryPoint]) -> list[float]:
    return [point.time_ms / 1000 for point in points]


def _names(points: Sequence[HistoryPoint]) -> list[str]:
    """Versions of these points, oldest number first."""
    names = {name for point in points for name in point.versions}
    return sorted(names, key=lambda name: (len(name), name))


def _accuracy(points: Sequence[HistoryPoint]) -> Chart:
    series = []
    for name in _names(points):
        line = {time: values for time, *values in windowed(points, name, ACCURACY_LABELS)}
        # a version that nobody labels any more has no accuracy now: its line ends
        ended = _last_change(points, name)
        shown = [line.get(point.time_ms) if point.time_ms <= ended else None for point in points]
        columns = [[None if v is None else round(v[i] * 100, 2) for v in shown] for i in range(3)]
        if any(value is not None for value in columns[0]):
            series.append({"label": name, "version": name, "values": columns[0], "low": columns[1], "high": columns[2]})
    return {"times": _times(points), "series": series, "unit": "%", "window": ACCURACY_LABELS}


def _last_change(points: Sequence[HistoryPoint], name: str) -> int:
    last, labels = 0, -1
    for point in points:
        version = point.versions.get(name)
        if version is not None and version.labels != labels:
            last, labels = point.time_ms, version.labels
    return last + 30_000


def _evidence(points: Sequence[HistoryPoint], snapshot: Snapshot) -> Chart:
    """The paired gain with its always-valid interval, in points; the margin is the line it must stay above."""
    margin = float(snapshot.spec("rollout.gate.margin", 0.02)) * 100
    columns: list[list[float | None]] = [[], [], []]
    for point in points:
        pair = point.pair if point.pair and point.pair.pairs else None
        gains = (None,) * 3 if pair is None else (pair.mean_gain, pair.gain_lower, pair.gain_upper)
        for column, gain in zip(columns, gains, strict=True):
            column.append(None if gain is None else round(gain * 100, 2))
    series = [{"label": "paired gain", "values": columns[0], "low": columns[1], "high": columns[2]}]
    return {
        "times": _times(points),
        "series": series if any(v is not None for v in columns[0]) else [],
        "unit": "points",
        "lines": [{"label": "margin", "value": -margin}],
    }


def _drift(points: Sequence[HistoryPoint]) -> Chart:
    """The detector's statistic, which raises the alarm where it reaches `falseAlarmEvery`; on a logarithmic scale."""
    values = [None if p.drift_statistic is None else round(max(1.0, math.exp(p.drift_statistic)), 1) for p in points]
    series = [{"label": "evidence of drift", "values": values}] if any(v is not None for v in values) else []
    alarm = next((p.drift_threshold for p in reversed(points) if p.drift_threshold > 0), 0.0)
    lines = [{"label": "alarm", "value": round(math.exp(alarm))}] if alarm else []
    return {"times": _times(points), "series": series, "unit": "", "lines": lines, "log": True}


def _lag(points: Sequence[HistoryPoint]) -> Chart:
    return {
        "times": _times(points),
        "series": [{"label": "waiting requests", "values": [p.backlog for p in points]}],
        "unit": "requests",
    }


def _per_version(points: Sequence[HistoryPoint], value: Callable[[VersionPoint], float | None], unit: str) -> Chart:
    series = []
    for name in _names(points):
        values = _alive([(p.versions.get(name), p) for p in points], value)
        if any(v is not None for v in values):
            series.append({"label": name, "version": name, "values": values})
    return {"times": _times(points), "series": series, "unit": unit}


def _alive(
    seen: Sequence[tuple[VersionPoint | None, HistoryPoint]], value: Callable[[VersionPoint], float | None]
) -> list[float | None]:
    """The value while the version answers; null where its count of answers stands still for half a minute."""
    shown: list[float | None] = []
    answers, moved = -1, 0
    for version, point in seen:
        if version is None:
            shown.append(None)
            continue
        if version.answers != answers:
            answers, moved = version.answers, point.time_ms
        number = value(version) if point.time_ms - moved <= 30_000 else None
        shown.append(None if number is None else round(number, 3))
    return shown


def _throughput(points: Sequence[HistoryPoint]) -> Chart:
    """Answers per second between neighbouring points, per version."""
    series = []
    for name in _names(points):
        values: list[float | None] = [None]
        for before, here in itertools.pairwise(points):
            one, other = before.versions.get(name), here.versions.get(name)
            seconds = (here.time_ms - before.time_ms) / 1000
            grown = None if one is None or other is None or seconds <= 0 else (other.answers - one.answers) / seconds
            values.append(None if grown is None or grown < 0 else round(grown, 2))
        if any(values):
            series.append({"label": name, "version": name, "values": values[: len(points)]})
    return {"times": _times(points), "series": series, "unit": "answers / s"}


def _training(snapshot: Snapshot) -> Chart:
    """Accuracy and loss over the epochs of the newest version that has a history."""
    epochs = snapshot.epochs
    series: list[dict[str, Any]] = [
        {"label": "new", "values": [round(e.train_accuracy * 100, 2) for e in epochs]},
        {
            "label": "holdout",
            "values": [None if e.holdout_accuracy is None else round(e.holdout_accuracy * 100, 2) for e in epochs],
        },
        {"label": "loss", "scale": "loss", "values": [round(e.loss, 4) for e in epochs]},
    ]
    return {
        "times": [e.epoch for e in epochs],
        "series": series if epochs else [],
        "unit": "%",
        "x": "epoch",
        "version": snapshot.epochs_of,
    }


def _marks(snapshot: Snapshot, points: Sequence[HistoryPoint]) -> list[dict[str, Any]]:
    """Decisions in view."""
    if not points:
        return []
    start = points[0].time_ms
    found = []
    for line in snapshot.status("decisions", ()):
        time_ms, action = text.epoch_ms(line.get("time")), str(line.get("action"))
        if action in MARKS and time_ms is not None and time_ms >= start:
            label = f"{text.words(action)} {line.get('version') or ''}".strip()
            found.append({"time": time_ms / 1000, "tone": MARKS[action], "label": label})
    return found


def _bands(snapshot: Snapshot, points: Sequence[HistoryPoint]) -> list[dict[str, Any]]:
    """From decisions: a candidate's shadow, canary and probation, each until the next of them or its end."""
    if not points:
        return []
    start, now = points[0].time_ms / 1000, points[-1].time_ms / 1000
    bands: list[dict[str, Any]] = []
    opened: dict[str, Any] | None = None
    for line in snapshot.status("decisions", ()):
        time_ms, action = text.epoch_ms(line.get("time")), str(line.get("action"))
        if time_ms is None or (action not in BAND_STARTS and action not in BAND_ENDS):
            continue
        if opened is not None:
            bands.append(opened | {"to": time_ms / 1000})
            opened = None
        if action in BAND_STARTS:
            opened = {"kind": BAND_STARTS[action], "version": str(line.get("version", "")), "from": time_ms / 1000}
    if opened is not None:
        bands.append(opened | {"to": now})
    return [band | {"from": max(band["from"], start)} for band in bands if band["to"] > start]
