"""The list of models, and the head of one model's page: state in words, and the numbers one looks at first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from continual_contract.history import HistoryPoint, VersionPoint

from continual_gateway.views import text
from continual_gateway.views.snapshot import Snapshot
from continual_gateway.views.text import Tone

SPARK_WIDTH, SPARK_HEIGHT = 120, 28
RATE_WINDOW_MS = 60_000
STALE_REPORT_MS = 60_000
IN_FLIGHT = frozenset({"Pending", "Running", "Importing"})
RISING = 0.85
"""Share of the way to a drift alarm, in logarithms, from which on it is worth a look: noise alone reaches two thirds."""


@dataclass(frozen=True, slots=True)
class Pill:
    """A state in one word."""

    tone: Tone
    word: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    tone: Tone = "idle"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of the list."""

    name: str
    namespace: str
    path: str
    state: Pill
    stable: str
    canary: str
    weight: int | None
    accuracy: str
    interval: str
    labels: str
    lag: str
    training: str
    created: str
    spark: str
    """Points of a polyline in a box of SPARK_WIDTH × SPARK_HEIGHT; empty without history."""


@dataclass(frozen=True, slots=True)
class Head:
    """The top of a model's page."""

    name: str
    namespace: str
    path: str
    qualified: str
    state: Pill
    facts: tuple[str, ...]
    notices: tuple[Pill, ...]
    figures: tuple[Figure, ...]
    missing: tuple[str, ...]
    can_cancel: bool = False
    """A training is in flight."""
    can_roll_back: bool = False
    """Something is judged or on probation, or an earlier version has served."""


def row(snapshot: Snapshot) -> ModelRow:
    """One model in the list."""
    stable, canary = snapshot.status("stable", {}), snapshot.status("canary", {})
    accuracy, interval = _accuracy(snapshot, stable)
    return ModelRow(
        name=snapshot.ref.name,
        namespace=snapshot.ref.namespace,
        path=path_of(snapshot),
        state=state_of(snapshot),
        stable=stable.get("version", text.DASH),
        canary=canary.get("version", ""),
        weight=canary.get("weight"),
        accuracy=accuracy,
        interval=interval,
        labels=text.count(stable.get("labels")),
        lag=text.count(snapshot.report.backlog if snapshot.report else snapshot.status("backlog")),
        training=training_word(snapshot),
        created=str(snapshot.document["metadata"].get("creationTimestamp", "")),
        spark=spark(snapshot.fine, stable.get("version", "")),
    )


def path_of(snapshot: Snapshot) -> str:
    return f"/models/{snapshot.ref.qualified}"


def state_of(snapshot: Snapshot) -> Pill:
    """The one word above everything: what a person should know first."""
    spec_valid, ready = snapshot.condition("SpecValid"), snapshot.condition("Ready")
    if spec_valid.get("status") == "False":
        return Pill("bad", "Invalid", str(spec_valid.get("message", "")))
    if not ready:
        return Pill("busy", "Starting", "the operator has not looked at it yet")
    if ready.get("status") != "True":
        tone: Tone = "busy" if snapshot.status("stable") is None else "bad"
        return Pill(tone, "Not ready", _because(ready))
    degraded = snapshot.condition("Degraded")
    if degraded.get("status") == "True":
        return Pill("warn", "Degraded", _because(degraded))
    return Pill("good", "Ready", "")


def _because(condition: dict[str, object]) -> str:
    reason, message = text.words(str(condition.get("reason", ""))), str(condition.get("message", ""))
    return f"{reason}: {message}" if message else reason


def _accuracy(snapshot: Snapshot, block: dict[str, object]) -> tuple[str, str]:
    """Live accuracy of a block and its interval; the report's numbers are fresher than the status's."""
    scores = snapshot.report.versions.get(str(block.get("version"))) if snapshot.report else None
    if scores is not None and scores.accuracy is not None:
        return text.percent(scores.accuracy), _interval(scores.lower, scores.upper)
    said = block.get("accuracy")
    if isinstance(said, dict):
        return text.percent(text.number(said.get("value"))), _interval(
            text.number(said.get("lower")), text.number(said.get("upper"))
        )
    return text.DASH, ""


def _interval(lower: float | None, upper: float | None) -> str:
    return "" if lower is None or upper is None else f"{lower * 100:.1f}–{upper * 100:.1f}"


def training_word(snapshot: Snapshot) -> str:
    state = snapshot.status("training.state", "")
    trigger = text.words(str(snapshot.status("training.trigger", "")))
    if state in IN_FLIGHT:
        return f"{state} ({trigger.lower()})" if trigger else str(state)
    return str(state) or text.DASH


def spark(points: Sequence[HistoryPoint], version: str) -> str:
    """Accuracy of one version as a polyline; the box reaches from a little below its lowest value to all right."""
    values = [value for _, value, _, _ in windowed(points, version, 50)][-60:]
    if len(values) < 2:
        return ""
    low = max(0.0, min(values) - 0.03)
    step = SPARK_WIDTH / (len(values) - 1)
    shown = ((i * step, (1 - (v - low) / max(1 - low, 1e-9)) * (SPARK_HEIGHT - 4) + 2) for i, v in enumerate(values))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)


def windowed(points: Sequence[HistoryPoint], version: str, labels: int) -> list[tuple[int, float, float, float]]:
    """(time, accuracy, lower, upper) over the last `labels` labels of a version, as differences of its counts."""
    line: list[tuple[int, float, float, float]] = []
    seen = [(point.time_ms, point.versions[version]) for point in points if version in point.versions]
    first = -1  # the newest point that is at least a window older; before there is one, the version's own beginning
    for index, (time_ms, here) in enumerate(seen):
        if index and here.labels < seen[index - 1][1].labels:
            first, seen[:index] = -1, [(0, VersionPoint())] * index  # counted anew
        while here.labels - seen[first + 1][1].labels >= labels:
            first += 1
        base = seen[first][1] if first >= 0 else VersionPoint()
        n, right = here.labels - base.labels, here.correct - base.correct
        if n >= min(20, labels):
            line.append((time_ms, right / n, *text.wilson(right, n)))
    return line


def answers_per_second(points: Sequence[HistoryPoint]) -> float | None:
    """All versions together over the last minute; None below two points."""
    if not points:
        return None
    recent = [point for point in points if point.time_ms >= points[-1].time_ms - RATE_WINDOW_MS]
    elapsed = (recent[-1].time_ms - recent[0].time_ms) / 1000
    if elapsed <= 0:
        return None
    return max(0, _answers(recent[-1]) - _answers(recent[0])) / elapsed


def _answers(point: HistoryPoint) -> int:
    return sum(version.answers for version in point.versions.values())


def head(snapshot: Snapshot) -> Head:
    """Name, state and the first numbers."""
    shape = snapshot.spec("model.input", {})
    size = f"{shape.get('height')} × {shape.get('width')} × {shape.get('channels')}"
    return Head(
        name=snapshot.ref.name,
        namespace=snapshot.ref.namespace,
        path=path_of(snapshot),
        qualified=snapshot.ref.qualified,
        state=state_of(snapshot),
        facts=(
            str(snapshot.spec("model.architecture", "")),
            f"{size} pixels",
            f"{len(snapshot.classes)} classes",
            str(snapshot.spec("retraining.strategy", "der++")),
        ),
        notices=tuple(_notices(snapshot)),
        figures=(
            _figure_stable(snapshot),
            _figure_accuracy(snapshot),
            _figure_rate(snapshot),
            _figure_lag(snapshot),
            _figure_latency(snapshot),
            _figure_labels(snapshot),
            _figure_drift(snapshot),
            _figure_training(snapshot),
        ),
        missing=snapshot.missing,
        can_cancel=snapshot.status("training.state") in IN_FLIGHT,
        can_roll_back=_can_roll_back(snapshot),
    )


def _can_roll_back(snapshot: Snapshot) -> bool:
    """Whether the operator would obey: what it would only record as ignored is not offered."""
    if snapshot.status("canary") or snapshot.status("probation"):
        return True
    stable, gone = snapshot.status("stable.version"), snapshot.status("quarantine", ())
    records = snapshot.status("versions", ())
    return any(r.get("served") and r.get("version") != stable and r.get("digest") not in gone for r in records)


def _notices(snapshot: Snapshot) -> Iterable[Pill]:
    if snapshot.spec("suspend", False):
        yield Pill("warn", "Suspended", "no training and no rollout decision until it is resumed; serving goes on")
    if pinned := snapshot.spec("rollout.pinnedVersion"):
        yield Pill("warn", "Pinned", f"{pinned} serves until it is unpinned; nothing replaces it")
    if snapshot.spec("rollout.mode", "Act") == "Observe":
        yield Pill("warn", "Observing", "decisions are recorded, none is carried out")
    report = snapshot.report
    if report is not None and snapshot.now_ms - report.time_ms > STALE_REPORT_MS:
        yield Pill(
            "bad", "Evaluator silent", f"its last report is {text.span((snapshot.now_ms - report.time_ms) / 1000)} old"
        )
    if report is not None and (report.loss.undelivered or report.loss.pending or report.loss.tail):
        yield Pill("bad", "Data loss", f"{report.loss.readded} requests were added again")
    waiting = snapshot.status("waiting")
    if waiting:
        yield Pill("busy", "Waiting", f"{waiting.get('version')} waits for its turn")


def _figure_stable(snapshot: Snapshot) -> Figure:
    stable = snapshot.status("stable", {})
    ready, wanted = stable.get("readyReplicas", 0), stable.get("replicas", snapshot.spec("serving.replicas", 1))
    note = f"{ready} of {wanted} pods ready" if stable else "the first training is under way"
    tone: Tone = "idle" if not stable else "good" if ready else "bad"
    return Figure("Stable version", str(stable.get("version", text.DASH)), note=note, tone=tone)


def _figure_accuracy(snapshot: Snapshot) -> Figure:
    stable = snapshot.status("stable", {})
    value, interval = _accuracy(snapshot, stable)
    labels = snapshot.report.versions.get(str(stable.get("version"))) if snapshot.report else None
    note = f"{interval}, {text.count(labels.labels)} labels" if labels and interval else "no labels yet"
    return Figure("Live accuracy", value.removesuffix(" %"), "%" if value != text.DASH else "", note)


def _figure_rate(snapshot: Snapshot) -> Figure:
    value = answers_per_second(snapshot.fine)
    total = _answers(snapshot.fine[-1]) if snapshot.fine else None
    return Figure("Answers", text.rate(value), "/s", f"{text.count(total)} in all")


def _figure_lag(snapshot: Snapshot) -> Figure:
    report = snapshot.report
    if report is None:
        return Figure("Waiting requests", text.count(snapshot.status("backlog")))
    stable = str(snapshot.status("stable.version", ""))
    behind = report.lag_seconds.get(stable, 0.0)
    limit = text.seconds(snapshot.spec("rollout.gate.maxLag"), 30.0)
    note = f"oldest {behind:.1f} s" if report.backlog else "all answered"
    return Figure("Waiting requests", text.count(report.backlog), note=note, tone="warn" if behind > limit else "good")


def _figure_latency(snapshot: Snapshot) -> Figure:
    scores = snapshot.report.versions.get(str(snapshot.status("stable.version"))) if snapshot.report else None
    value = text.milliseconds(scores.worker_us_p95 if scores else None)
    return Figure("Latency p95", value.removesuffix(" ms"), "ms" if value != text.DASH else "", "per image")


def _figure_labels(snapshot: Snapshot) -> Figure:
    report = snapshot.report
    if report is None:
        return Figure("Labels", text.DASH)
    state = report.labels
    faults = [f"{text.count(n)} {word}" for n, word in ((state.late, "late"), (state.unknown, "unknown")) if n]
    throttled = [f"{text.count(state.throttled)} throttled"] if state.throttled else []
    note = ", ".join((*faults, *throttled)) or f"{text.count(report.released_samples)} to train on"
    return Figure("Labels", text.count(state.counted), note=note, tone="warn" if throttled else "idle")


def _figure_drift(snapshot: Snapshot) -> Figure:
    drift = snapshot.report.drift if snapshot.report else None
    if drift is None:
        return Figure("Drift", "off", note="no drift trigger is declared")
    if drift.last_alarm_labels is not None and drift.alarms:
        return Figure(
            "Drift", "alarm", note=f"after {text.count(drift.last_alarm_labels)} labels of {drift.version}", tone="bad"
        )
    if not drift.armed:
        return Figure("Drift", "learning", note=f"{drift.labels} of 300 labels of {drift.version}", tone="busy")
    share = max(0.0, drift.log_statistic) / drift.log_threshold if drift.log_threshold > 0 else 0.0
    if snapshot.report and snapshot.report.signals.flagged:
        return Figure("Drift", "inputs differ", note="labels will tell whether it costs accuracy", tone="warn")
    note = f"evidence {math.exp(max(0.0, drift.log_statistic)):.0f} of {math.exp(drift.log_threshold):.0f}"
    return Figure("Drift", "rising" if share > RISING else "none", note=note, tone="warn" if share > RISING else "good")


def _figure_training(snapshot: Snapshot) -> Figure:
    training = snapshot.status("training", {})
    state = str(training.get("state", "none"))
    trigger = text.words(str(training.get("trigger", "")))
    if state in IN_FLIGHT:
        return Figure("Training", progress_words(snapshot), note=trigger, tone="busy")
    if state == "Failed":
        return Figure("Training", "failed", note=str(training.get("message", "")) or trigger, tone="bad")
    return Figure("Training", "idle", note=f"last: {trigger.lower()}, {state.lower()}" if trigger else "none yet")


def progress_words(snapshot: Snapshot) -> str:
    """What a training in flight says of itself: `epoch 3/20`."""
    told = snapshot.progress
    if told.get("epochs"):
        return f"epoch {told.get('epoch', '0')}/{told['epochs']}"
    return told.get("phase") or str(snapshot.status("training.state", "")).lower()
