"""The judges as tables: each row is a sentence, each verdict has its reason."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from continual_contract.artifacts import HoldoutScores
from continual_contract.errors import UsageError
from continual_contract.report import ClassEvidence, PairEvidence
from continual_operator import judges
from continual_operator.judges import (
    CanaryFacts,
    DeadlineFacts,
    OfflineFacts,
    ProbationFacts,
    RetrainingFacts,
    ScaleFacts,
    StepFacts,
)
from continual_operator.ledger import LedgerEntry
from continual_operator.spec import (
    Autoscaling,
    DriftTrigger,
    Gate,
    OfflineGate,
    Probation,
    Serving,
    Step,
    Trigger,
)
from hypothesis import given
from hypothesis import strategies as st

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
ENOUGH = math.log(1 / 0.025) + 0.1
NAN = float("nan")


def evidence(**changes: Any) -> PairEvidence:
    """Evidence that promotes at alpha 0.025, unless a row says otherwise."""
    values: dict[str, Any] = {
        "evidence_id": "v2-canary-1", "purpose": "canary", "candidate": "v2", "baseline": "v1", "margin": 0.02,
        "worst_class_margin": 0.05, "pairs": 400, "requests": 400, "mean_gain": 0.01, "gain_lower": -0.01, "gain_upper": 0.03,
        "log_wealth_not_inferior": ENOUGH, "log_wealth_worse": 0.0, "log_wealth_class_veto": 0.0, "wins": 9, "losses": 5,
        "coverage_percent": 99.0,
    }  # fmt: skip
    return PairEvidence(**(values | changes))


def canary(pair: PairEvidence | None = None, gate: dict[str, Any] | None = None, **changes: Any) -> CanaryFacts:
    values: dict[str, Any] = {
        "gate": Gate(**(gate or {})), "alpha": 0.025, "evidence": pair or evidence(), "report_age_seconds": 2.0,
        "elapsed": timedelta(hours=30), "answers": 1000, "stable_answers": 1000, "p95_us": 100.0, "stable_p95_us": 100.0,
    }  # fmt: skip
    return CanaryFacts(**(values | changes))


WORSE = {"log_wealth_worse": math.log(20) + 0.01}
SLOW = {"p95_us": 9000.0, "stable_p95_us": 5000.0}
CANARY: list[tuple[str, CanaryFacts, str, str]] = [
    ("enough evidence promotes", canary(), "Promote", "AccuracyHeld"),
    ("just below 1/alpha is undecided", canary(evidence(log_wealth_not_inferior=math.log(40) - 1e-9)), "Inconclusive", "IntervalTooWide"),
    ("exactly 1/alpha promotes", canary(evidence(log_wealth_not_inferior=-math.log(0.025))), "Promote", "AccuracyHeld"),
    ("worse rolls back", canary(evidence(**WORSE)), "Rollback", "AccuracyDropped"),
    ("rollback wins a tie with promotion", canary(evidence(log_wealth_not_inferior=99.0, **WORSE)), "Rollback", "AccuracyDropped"),
    ("rollback needs no minimum of labels", canary(evidence(pairs=3, **WORSE)), "Rollback", "AccuracyDropped"),
    ("rollback does not wait for minDuration", canary(evidence(**WORSE), elapsed=timedelta(0)), "Rollback", "AccuracyDropped"),
    ("rollback does not wait for the cycle", canary(evidence(**WORSE), {"cycle": DAY}, elapsed=HOUR), "Rollback", "AccuracyDropped"),
    ("rollback does not wait for coverage", canary(evidence(coverage_percent=None, **WORSE)), "Rollback", "AccuracyDropped"),
    ("one class that lost too much rolls back", canary(evidence(log_wealth_class_veto=3.1)), "Rollback", "ClassDropped"),
    ("the veto wins over promotion", canary(evidence(log_wealth_class_veto=3.1, log_wealth_not_inferior=99.0)), "Rollback", "ClassDropped"),
    ("an unknown class neither passes nor blocks", canary(evidence(classes={})), "Promote", "AccuracyHeld"),
    ("a canary that lags goes", canary(lag_seconds=40.0, stable_lag_seconds=1.0), "Rollback", "CanaryLags"),
    ("a canary that lags as stable does is not to blame", canary(lag_seconds=60.0, stable_lag_seconds=50.0), "Promote", "AccuracyHeld"),
    ("lag at the limit is allowed", canary(lag_seconds=30.0, stable_lag_seconds=0.0), "Promote", "AccuracyHeld"),
    ("too many dead letters roll back", canary(error_rate=0.02), "Rollback", "ErrorRate"),
    ("two dead letters of twenty say nothing", canary(error_rate=0.1, answers=18), "Promote", "AccuracyHeld"),
    ("only dead letters roll back", canary(error_rate=1.0, answers=0), "Rollback", "ErrorRate"),
    ("requests that stable cannot answer either are the stream's fault", canary(error_rate=0.05, stable_error_rate=0.06), "Promote", "AccuracyHeld"),
    ("more dead letters than stable's many roll back", canary(error_rate=0.09, stable_error_rate=0.06), "Rollback", "ErrorRate"),
    ("errors at the limit are allowed", canary(error_rate=0.01), "Promote", "AccuracyHeld"),
    ("operational faults come before labels", canary(evidence(**WORSE), error_rate=0.5), "Rollback", "ErrorRate"),
    ("no report is an error, not a pass", canary(report_age_seconds=None), "Error", "EvaluatorSilent"),
    ("an old report is an error, not a pass", canary(report_age_seconds=61.0), "Error", "EvaluatorSilent"),
    ("a report of unknown age is an error", canary(report_age_seconds=NAN), "Error", "EvaluatorSilent"),
    ("an old report does not convict either", canary(evidence(**WORSE), report_age_seconds=999.0), "Error", "EvaluatorSilent"),
    ("old lag does not convict either", canary(lag_seconds=99.0, report_age_seconds=999.0), "Error", "EvaluatorSilent"),
    ("no pair is no labels", canary().model_copy(update={"evidence": None}), "NoLabels", "NoLabels"),
    ("zero pairs is no labels", canary(evidence(pairs=0)), "NoLabels", "NoLabels"),
    ("NaN for promotion is an error", canary(evidence(log_wealth_not_inferior=NAN)), "Error", "EvidenceInvalid"),
    ("NaN for rollback is an error", canary(evidence(log_wealth_worse=NAN)), "Error", "EvidenceInvalid"),
    ("NaN for the veto is an error", canary(evidence(log_wealth_class_veto=NAN)), "Error", "EvidenceInvalid"),
    ("NaN coverage is an error", canary(evidence(coverage_percent=NAN)), "Error", "EvidenceInvalid"),
    ("an infinite mean is an error", canary(evidence(mean_gain=math.inf)), "Error", "EvidenceInvalid"),
    ("unknown coverage is doubt", canary(evidence(coverage_percent=None)), "Inconclusive", "CoverageUnknown"),
    ("low coverage is doubt", canary(evidence(coverage_percent=94.9)), "Inconclusive", "LowCoverage"),
    ("coverage at the limit is enough", canary(evidence(coverage_percent=95.0)), "Promote", "AccuracyHeld"),
    ("too few labels are doubt", canary(evidence(pairs=99)), "Inconclusive", "TooFewLabels"),
    ("too early is doubt", canary(elapsed=timedelta(hours=23)), "Inconclusive", "TooEarly"),
    ("between cycles is doubt", canary(gate={"cycle": DAY}, cycles_seen=1), "Inconclusive", "MidCycle"),
    ("at a whole cycle the verdict falls", canary(gate={"cycle": DAY}, cycles_seen=0), "Promote", "AccuracyHeld"),
    ("much slower is doubt", canary(**SLOW), "Inconclusive", "TooSlow"),
    ("slower by microseconds harms nobody", canary(p95_us=300.0), "Promote", "AccuracyHeld"),
    ("slow on few answers says nothing", canary(answers=99, **SLOW), "Promote", "AccuracyHeld"),
    ("approval is asked for last", canary(gate={"require_approval": True}), "Inconclusive", "AwaitingApproval"),
    ("approved and proven promotes", canary(gate={"require_approval": True}, approved=True), "Promote", "AccuracyHeld"),
    ("approval is no evidence", canary(evidence(log_wealth_not_inferior=0.0), {"require_approval": True}, approved=True), "Inconclusive", "IntervalTooWide"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), CANARY, ids=[row[0] for row in CANARY])
def test_the_canary_is_judged_by_its_paired_gain(said: str, facts: CanaryFacts, outcome: str, reason: str) -> None:
    """The live gate, row by row: what speaks against it first, then every doubt, then what speaks for it."""
    verdict = judges.judge_canary(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.builds(
        canary,
        pair=st.builds(
            evidence, pairs=st.integers(0, 5000), mean_gain=numbers, log_wealth_not_inferior=numbers, log_wealth_worse=numbers,
            log_wealth_class_veto=numbers, coverage_percent=st.none() | numbers,
        ),
        report_age_seconds=st.none() | numbers,
        elapsed=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30)),
        lag_seconds=st.none() | st.floats(0, 1e6),
        stable_lag_seconds=st.none() | st.floats(0, 1e6),
    )
)  # fmt: skip
def test_doubt_is_never_a_pass(facts: CanaryFacts) -> None:
    """C3: whatever numbers arrive, a promotion has fresh, finite, sufficient evidence behind it, and a rollback a reason."""
    verdict = judges.judge_canary(facts)
    pair = facts.evidence
    if verdict.outcome == "Promote":
        assert facts.report_age_seconds <= 60
        assert pair.pairs >= facts.gate.min_labels
        assert pair.coverage_percent >= facts.gate.min_coverage
        assert pair.log_wealth_not_inferior >= -math.log(facts.alpha)
        assert not pair.log_wealth_worse >= -math.log(facts.gate.rollback_alpha)
        assert facts.elapsed >= facts.gate.min_duration
    if verdict.outcome == "Rollback":
        assert facts.report_age_seconds <= 60


@pytest.mark.parametrize(
    ("guard", "removed", "facts"),
    [
        ("_silent", lambda age, limit: False, canary(report_age_seconds=61.0)),
        ("_finite", lambda pair: True, canary(evidence(coverage_percent=NAN))),
    ],
)
def test_mutation_without_its_guard_the_unknown_would_pass(
    monkeypatch: pytest.MonkeyPatch, guard: str, removed: Any, facts: CanaryFacts
) -> None:
    """C3: a silent evaluator's old evidence and a NaN end in an error only because somebody looks for them."""
    assert judges.judge_canary(facts).outcome == "Error"
    monkeypatch.setattr(judges, guard, removed)
    assert judges.judge_canary(facts).outcome == "Promote"


STEPS = (Step(weight=0, hold=HOUR), Step(weight=10, hold=HOUR), Step(weight=50, hold=HOUR))


def step(**changes: Any) -> StepFacts:
    values: dict[str, Any] = {
        "steps": STEPS, "step": 0, "in_step": 2 * HOUR, "gate": Gate(), "verdict": "Inconclusive", "reason": "IntervalTooWide",
        "pairs": 150, "mean_gain": 0.0,
    }  # fmt: skip
    return StepFacts(**(values | changes))


STEP: list[tuple[str, StepFacts, str, str]] = [
    ("hold, labels and a mean above the margin raise the share", step(), "Advance", "StepPassed"),
    ("a promoting verdict raises it too", step(verdict="Promote", reason="AccuracyHeld"), "Advance", "StepPassed"),
    ("too early a verdict may still raise it", step(reason="TooEarly"), "Advance", "StepPassed"),
    ("not before the hold", step(in_step=HOUR - timedelta(seconds=1)), "Stay", "Holding"),
    ("never on the last step", step(step=2), "Stay", "Holding"),
    ("not with too few labels", step(pairs=99), "Stay", "TooFewLabels"),
    ("not with a mean below the margin", step(mean_gain=-0.021), "Stay", "Holding"),
    ("not with a mean that is none", step(mean_gain=NAN), "Stay", "Holding"),
    ("not without a mean", step(mean_gain=None), "Stay", "Holding"),
    ("never without labels", step(verdict="NoLabels", reason="NoLabels"), "Stay", "NoLabels"),
    ("never while the evaluator is silent", step(verdict="Error", reason="EvaluatorSilent"), "Stay", "EvaluatorSilent"),
    ("not while slow labels are missing", step(reason="LowCoverage"), "Stay", "LowCoverage"),
]


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), STEP, ids=[row[0] for row in STEP])
def test_the_share_rises_only_on_labels(said: str, facts: StepFacts, outcome: str, reason: str) -> None:
    """Without labels the weight never rises."""
    verdict = judges.next_step(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


def deadline(**changes: Any) -> DeadlineFacts:
    values: dict[str, Any] = {
        "verdict": "Inconclusive", "reason": "IntervalTooWide", "message": "", "elapsed": 8 * DAY, "deadline": 7 * DAY,
        "on_inconclusive": "Rollback", "last_step": True,
    }  # fmt: skip
    return DeadlineFacts(**(values | changes))


DEADLINE: list[tuple[str, DeadlineFacts, str, str]] = [
    ("before the deadline nothing changes", deadline(elapsed=DAY), "Inconclusive", "IntervalTooWide"),
    ("after it the default rolls back", deadline(), "Rollback", "DeadlinePassed"),
    ("no labels end by the default too", deadline(verdict="NoLabels", reason="NoLabels"), "Rollback", "DeadlinePassed"),
    (
        "an error ends by the default too",
        deadline(verdict="Error", reason="EvaluatorSilent"),
        "Rollback",
        "DeadlinePassed",
    ),
    ("Wait waits", deadline(on_inconclusive="Wait"), "Inconclusive", "IntervalTooWide"),
    ("Promote promotes on the last step", deadline(on_inconclusive="Promote"), "Promote", "DeadlinePassed"),
    (
        "Promote rolls back before the last step",
        deadline(on_inconclusive="Promote", last_step=False),
        "Rollback",
        "DeadlinePassed",
    ),
    (
        "Promote never replaces an approval",
        deadline(on_inconclusive="Promote", approval_missing=True),
        "Rollback",
        "DeadlinePassed",
    ),
    ("a verdict stands", deadline(verdict="Promote", reason="AccuracyHeld"), "Promote", "AccuracyHeld"),
]


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), DEADLINE, ids=[row[0] for row in DEADLINE])
def test_what_the_evidence_does_not_end_the_declared_default_ends(
    said: str, facts: DeadlineFacts, outcome: str, reason: str
) -> None:
    """N4: inconclusive and no labels are outcomes of their own."""
    verdict = judges.judge_deadline(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


def probation(pair: PairEvidence | None = None, **changes: Any) -> ProbationFacts:
    values: dict[str, Any] = {
        "probation": Probation(), "evidence": pair or evidence(margin=0.0), "report_age_seconds": 1.0, "elapsed": 2 * DAY,
    }  # fmt: skip
    return ProbationFacts(**(values | changes))


BAD = {"log_wealth_worse": math.log(100) + 0.01}
PROBATION: list[tuple[str, ProbationFacts, str, str]] = [
    ("time and labels end it", probation(), "Pass", "ProbationPassed"),
    ("worse than the warm version goes back", probation(evidence(**BAD)), "Rollback", "AccuracyDropped"),
    (
        "it goes back at any time, on few labels",
        probation(evidence(pairs=20, **BAD), elapsed=timedelta(0)),
        "Rollback",
        "AccuracyDropped",
    ),
    ("the gate's alpha is not probation's", probation(evidence(**WORSE)), "Pass", "ProbationPassed"),
    ("too early goes on", probation(elapsed=HOUR), "Inconclusive", "OnProbation"),
    ("too few labels go on", probation(evidence(pairs=299)), "Inconclusive", "OnProbation"),
    (
        "too few labels by the deadline are unproven",
        probation(evidence(pairs=299), elapsed=8 * DAY),
        "Pass",
        "ProbationUnproven",
    ),
    (
        "no labels by the deadline are unproven",
        probation(evidence(pairs=0), elapsed=8 * DAY),
        "Pass",
        "ProbationUnproven",
    ),
    (
        "bad evidence at the deadline still goes back",
        probation(evidence(**BAD), elapsed=8 * DAY),
        "Rollback",
        "AccuracyDropped",
    ),
    ("a silent evaluator passes nothing", probation(report_age_seconds=None), "Error", "EvaluatorSilent"),
    ("NaN passes nothing", probation(evidence(log_wealth_worse=NAN)), "Error", "EvidenceInvalid"),
]


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), PROBATION, ids=[row[0] for row in PROBATION])
def test_probation_looks_back_at_the_warm_version(said: str, facts: ProbationFacts, outcome: str, reason: str) -> None:
    """Rule 10: rollback looks always; what stays unproven is said so."""
    verdict = judges.judge_probation(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


def scores(**changes: Any) -> HoldoutScores:
    values: dict[str, Any] = {
        "samples": 400, "accuracy": 0.9, "per_class": {"a": 0.9, "b": 0.9}, "per_class_samples": {"a": 200, "b": 200},
        "parent_accuracy": 0.9, "parent_per_class": {"a": 0.9, "b": 0.9}, "negative_flips": 0.01,
    }  # fmt: skip
    return HoldoutScores(**(values | changes))


def offline(changed: dict[str, Any] | None = None, **changes: Any) -> OfflineFacts:
    values: dict[str, Any] = {
        "gate": OfflineGate(), "scores": scores(**(changed or {})), "classes": 2, "finite_loss": True,
        "parity_max_abs_diff": 1e-6, "has_parent": True,
    }  # fmt: skip
    return OfflineFacts(**(values | changes))


OBSERVE = OfflineGate(mode="Observe")
FEW = {"samples": 20, "per_class_samples": {"a": 10, "b": 10}}
OFFLINE: list[tuple[str, OfflineFacts, str, str]] = [
    ("as good as its parent passes", offline(), "Pass", "OfflineGatePassed"),
    ("better passes", offline({"accuracy": 0.99}), "Pass", "OfflineGatePassed"),
    ("a drop within the limit passes", offline({"accuracy": 0.885}), "Pass", "OfflineGatePassed"),
    ("a drop beyond the limit is refused", offline({"accuracy": 0.87}), "Reject", "HoldoutAccuracyDropped"),
    ("forgetting one class is refused", offline({"per_class": {"a": 0.95, "b": 0.8}}), "Reject", "HoldoutClassDropped"),
    ("a class without holdout is not judged", offline({"per_class": {"a": 0.9}}), "Pass", "OfflineGatePassed"),
    ("one sample of ten convicts no class", offline({"per_class": {"a": 0.8, "b": 0.9}} | FEW), "Pass", "OfflineGatePassed"),
    ("two samples of ten convict none either", offline({"per_class": {"a": 0.7, "b": 0.9}} | FEW), "Pass", "OfflineGatePassed"),
    ("six of ten do", offline({"per_class": {"a": 0.3, "b": 0.9}} | FEW), "Reject", "HoldoutClassDropped"),
    ("a drop that as many gains make an accident passes", offline({"samples": 100, "accuracy": 0.87, "negative_flips": 0.05}), "Pass", "OfflineGatePassed"),
    ("five lost and none gained is no accident", offline({"samples": 100, "accuracy": 0.85, "negative_flips": 0.05}), "Reject", "HoldoutAccuracyDropped"),
    ("nine flips of a hundred may be five", offline({"samples": 100, "negative_flips": 0.09}), "Pass", "OfflineGatePassed"),
    ("ten may not", offline({"samples": 100, "negative_flips": 0.1}), "Reject", "NegativeFlips"),
    ("many samples turned wrong are refused", offline({"negative_flips": 0.08}), "Reject", "NegativeFlips"),
    ("unknown flips are not judged", offline({"negative_flips": None}), "Pass", "OfflineGatePassed"),
    ("flips that are no number are refused beside a class that lost", offline({"negative_flips": NAN, "per_class": {"a": 0.9, "b": 0.5}}), "Reject", "NegativeFlips"),
    ("flips that are no number are refused", offline({"negative_flips": NAN}), "Reject", "NegativeFlips"),
    ("no holdout is no pass", offline({"samples": 0}), "Reject", "NoHoldout"),
    ("no parent score is no pass", offline({"parent_accuracy": None}), "Reject", "NoHoldout"),
    ("a loss that is no number is refused", offline(finite_loss=False), "Reject", "LossNotFinite"),
    ("an accuracy that is no number is refused", offline({"accuracy": NAN}), "Reject", "LossNotFinite"),
    ("an export that computes something else is refused", offline(parity_max_abs_diff=0.01), "Reject", "ParityFailed"),
    ("a parity that is no number is refused", offline(parity_max_abs_diff=NAN), "Reject", "ParityFailed"),
    ("Observe lets a worse one through and says so", offline({"accuracy": 0.5}, gate=OBSERVE), "Pass", "OfflineGateObserved"),
    ("Observe never lets broken numbers through", offline(finite_loss=False, gate=OBSERVE), "Reject", "LossNotFinite"),
    ("Observe never lets a broken export through", offline(parity_max_abs_diff=1.0, gate=OBSERVE), "Reject", "ParityFailed"),
    ("the first version has to beat guessing by half", offline({"accuracy": 0.76}, has_parent=False), "Pass", "OfflineGatePassed"),
    ("guessing is refused", offline({"accuracy": 0.75}, has_parent=False), "Reject", "TooInaccurate"),
    ("a first version without holdout is refused", offline({"samples": 0}, has_parent=False), "Reject", "NoHoldout"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), OFFLINE, ids=[row[0] for row in OFFLINE])
def test_the_offline_gate_judges_value_and_change(said: str, facts: OfflineFacts, outcome: str, reason: str) -> None:
    """N7, N12: forgetting and broken exports end before any traffic."""
    verdict = judges.offline_gate(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


NIGHTLY = Trigger(schedule="0 3 * * *", time_zone="Europe/Berlin")
KEY = "0 3 * * * Europe/Berlin"
FLOOR = Trigger(accuracy_below=0.9, over_labels=200)


def retraining(*triggers: Trigger, **changes: Any) -> RetrainingFacts:
    values: dict[str, Any] = {
        "triggers": triggers or (Trigger(labels=100), Trigger(drift=DriftTrigger())), "cooldown": timedelta(minutes=10),
        "max_per_day": 24, "max_failures": 3, "now": NOW, "samples": 0,
    }  # fmt: skip
    return RetrainingFacts(**(values | changes))


DRIFT = {"drift_alarm": True, "drift_samples": 200, "samples": 250}
RECENT = NOW - timedelta(minutes=5)
RETRAINING: list[tuple[str, RetrainingFacts, str, str]] = [
    ("nothing is due by itself", retraining(), "NotDue", "NothingDue"),
    ("enough labels", retraining(samples=100), "Due", "Labels"),
    ("one label too few", retraining(samples=99), "NotDue", "NothingDue"),
    ("drift", retraining(**DRIFT), "Due", "Drift"),
    ("drift is more urgent than labels", retraining(**(DRIFT | {"samples": 500})), "Due", "Drift"),
    ("drift without a trigger starts nothing", retraining(Trigger(labels=300), **DRIFT), "NotDue", "NothingDue"),
    ("drift waits for samples of the new world", retraining(**(DRIFT | {"drift_samples": 199})), "NotDue", "AwaitingSamples"),
    ("drift waits for as many as its trigger asks", retraining(Trigger(drift=DriftTrigger(min_samples=1)), **(DRIFT | {"drift_samples": 1})), "Due", "Drift"),
    ("drift without any sample of the new world waits", retraining(Trigger(drift=DriftTrigger(min_samples=1)), **(DRIFT | {"drift_samples": 0})), "NotDue", "AwaitingSamples"),
    ("drift without any sample waits", retraining(**(DRIFT | {"samples": 0})), "NotDue", "NoNewSamples"),
    ("accuracy below the floor", retraining(FLOOR, samples=5, recent_accuracy=0.89, recent_labels=200), "Due", "AccuracyBelow"),
    ("accuracy at the floor", retraining(FLOOR, samples=5, recent_accuracy=0.9, recent_labels=200), "NotDue", "NothingDue"),
    ("a low accuracy over few labels says nothing", retraining(FLOOR, samples=5, recent_accuracy=0.1, recent_labels=199), "NotDue", "NothingDue"),
    ("an unknown accuracy says nothing", retraining(FLOOR, samples=5, recent_labels=500), "NotDue", "NothingDue"),
    ("a time that has come", retraining(NIGHTLY, samples=1, schedules={KEY: NOW - DAY}), "Due", "Schedule"),
    ("a time that has been handled", retraining(NIGHTLY, samples=1, schedules={KEY: NOW - timedelta(hours=9)}), "NotDue", "NothingDue"),
    ("a time in its own zone", retraining(NIGHTLY, samples=1, schedules={KEY: datetime(2026, 3, 2, 1, 59, tzinfo=UTC)}), "Due", "Schedule"),
    ("a new schedule does not fire for the past", retraining(NIGHTLY, samples=1), "NotDue", "NothingDue"),
    ("a time without samples", retraining(NIGHTLY, schedules={KEY: NOW - DAY}), "NotDue", "NoNewSamples"),
    ("by hand", retraining(samples=1, manual=True), "Due", "Manual"),
    ("by hand without samples", retraining(manual=True), "NotDue", "NoNewSamples"),
    ("a correction needs no other sample", retraining(corrections_ready=True), "Due", "Correction"),
    ("a correction where they are off", retraining(corrections_ready=True, corrections_allowed=False), "NotDue", "NothingDue"),
    ("one in flight", retraining(samples=500, in_flight=True), "NotDue", "InFlight"),
    ("one in flight stops even corrections", retraining(corrections_ready=True, in_flight=True), "NotDue", "InFlight"),
    ("one in flight stops even people", retraining(manual=True, samples=5, in_flight=True), "NotDue", "InFlight"),
    ("labels do not overtake a waiting candidate", retraining(samples=500, candidate_waits=True), "NotDue", "CandidateWaits"),
    ("drift replaces a waiting candidate", retraining(candidate_waits=True, **DRIFT), "Due", "Drift"),
    ("a correction replaces a waiting candidate", retraining(candidate_waits=True, corrections_ready=True), "Due", "Correction"),
    ("cooldown", retraining(samples=500, ended=RECENT), "NotDue", "Cooldown"),
    ("after the cooldown", retraining(samples=500, ended=NOW - timedelta(minutes=10)), "Due", "Labels"),
    ("a correction ignores the cooldown", retraining(corrections_ready=True, ended=RECENT), "Due", "Correction"),
    ("people ignore the cooldown", retraining(manual=True, samples=5, ended=RECENT), "Due", "Manual"),
    ("drift does not ignore the cooldown", retraining(ended=RECENT, **DRIFT), "NotDue", "Cooldown"),
    ("the day is full", retraining(samples=500, starts_today=24), "NotDue", "DailyLimit"),
    ("corrections count in the day", retraining(corrections_ready=True, starts_today=24), "NotDue", "DailyLimit"),
    ("after one failure the pause doubles", retraining(samples=500, failures=1, ended=NOW - timedelta(minutes=19)), "NotDue", "BackOff"),
    ("and then it is over", retraining(samples=500, failures=1, ended=NOW - timedelta(minutes=20)), "Due", "Labels"),
    ("too many failures stop it", retraining(samples=500, failures=3), "NotDue", "TooManyFailures"),
    ("people may try again after failures", retraining(samples=500, failures=3, manual=True), "Due", "Manual"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "facts", "outcome", "reason"), RETRAINING, ids=[row[0] for row in RETRAINING])
def test_retraining_is_governed(said: str, facts: RetrainingFacts, outcome: str, reason: str) -> None:
    """N9: triggers, and every limit that holds for each."""
    verdict = judges.retraining_due(facts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason), said


def test_alpha_is_spent_as_e_lond_says() -> None:
    """Rule 8: the first candidate gets alpha/2; every promotion earns some back."""
    levels = [judges.alpha_of(0.05, started, 0) for started in range(1, 200)]
    assert levels[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert sum(levels) < 0.05
    assert judges.alpha_of(0.05, 3, 2) == pytest.approx(3 * levels[2])


AUTO = Serving(autoscaling=Autoscaling(min_replicas=2, max_replicas=8, target_backlog=100))
SCALE: list[tuple[str, ScaleFacts, int, bool]] = [
    (
        "declared replicas hold without autoscaling",
        ScaleFacts(serving=Serving(replicas=3), current=9, backlog=9999),
        3,
        False,
    ),
    ("up at once", ScaleFacts(serving=AUTO, current=2, backlog=450), 5, False),
    ("never above the maximum", ScaleFacts(serving=AUTO, current=2, backlog=10**9), 8, False),
    ("down not at once", ScaleFacts(serving=AUTO, current=5, backlog=0), 5, True),
    (
        "down after five minutes",
        ScaleFacts(serving=AUTO, current=5, backlog=150, low_for=timedelta(minutes=5)),
        2,
        False,
    ),
    ("never below the minimum", ScaleFacts(serving=AUTO, current=5, backlog=0, low_for=DAY), 2, False),
    ("an unknown backlog changes nothing", ScaleFacts(serving=AUTO, current=5, backlog=None, low_for=DAY), 5, False),
    ("a lowered maximum holds at once", ScaleFacts(serving=AUTO, current=20, backlog=None), 8, False),
]


@pytest.mark.parametrize(("said", "facts", "replicas", "low"), SCALE, ids=[row[0] for row in SCALE])
def test_size_follows_the_backlog(said: str, facts: ScaleFacts, replicas: int, low: bool) -> None:
    """Up at once, down slowly, unknown is no reason."""
    assert judges.scale(facts) == judges.Size(replicas, low), said


@pytest.mark.parametrize(
    ("replicas", "weight", "shadow", "size"),
    [(4, 0, 100, 4), (4, 10, 0, 1), (4, 50, 0, 2), (4, 0, 30, 2), (1, 0, 0, 1), (0, 10, 100, 1)],
)
def test_a_canary_is_as_big_as_what_it_answers(replicas: int, weight: int, shadow: float, size: int) -> None:
    """ceil(replicas x max(weight, shadowPercent) / 100), at least one."""
    assert judges.canary_size(replicas, weight, shadow) == size


def test_garbage_spares_what_a_rollback_needs() -> None:
    """Live versions and their parents stay whatever their age; the rest goes oldest first."""
    records = tuple((f"v{i}", f"d{i}", f"d{i - 1}" if i > 1 else None) for i in range(1, 8))
    kept = judges.garbage(records, frozenset({"v2", "v7"}), 2)
    assert kept.versions == {"v2", "v6", "v7"}
    assert kept.digests == {"d1", "d2", "d6", "d7"}


def entry(judge: str, facts: judges.Facts | None) -> LedgerEntry:
    return LedgerEntry(
        sequence=1, time=NOW, namespace="default", model="digits", uid="u", generation=1, action="Promote", verdict="Promote",
        reason="", message="", judge=judge, facts=json.loads(json.dumps(judges.dump_facts(facts))) if facts else None,
    )  # fmt: skip


REPLAYS = [
    *(("judge_canary", facts, judges.judge_canary(facts)) for _, facts, _, _ in CANARY),
    *(("next_step", facts, judges.next_step(facts)) for _, facts, _, _ in STEP),
    *(("judge_deadline", facts, judges.judge_deadline(facts)) for _, facts, _, _ in DEADLINE),
    *(("judge_probation", facts, judges.judge_probation(facts)) for _, facts, _, _ in PROBATION),
    *(("offline_gate", facts, judges.offline_gate(facts)) for _, facts, _, _ in OFFLINE),
    *(("retraining_due", facts, judges.retraining_due(facts)) for _, facts, _, _ in RETRAINING),
]


@pytest.mark.parametrize(("judge", "facts", "verdict"), REPLAYS)
def test_a_decision_is_replayed_bit_for_bit(judge: str, facts: judges.Facts, verdict: judges.Verdict) -> None:
    """C7: through JSON, as the ledger keeps it, reason and message included."""
    assert judges.replay(entry(judge, facts)) == verdict


def test_replay_takes_evidence_recomputed_from_the_pairs() -> None:
    """Mutation check of C7: other evidence gives another verdict, so the recorded one is really what counted."""
    recorded = entry("judge_canary", canary())
    assert judges.replay(recorded).outcome == "Promote"
    assert judges.replay(recorded, evidence(**WORSE)).outcome == "Rollback"


def test_what_a_person_decided_cannot_be_replayed() -> None:
    """There is no judge to ask again, and the message says so."""
    with pytest.raises(UsageError, match="no judge made this decision"):
        judges.replay(entry("", None))


def test_the_worst_class_is_named_in_the_veto() -> None:
    """A person reads which class lost."""
    classes = {
        "a": ClassEvidence(labels=9, mean_gain=0.0, log_wealth=0.0),
        "b": ClassEvidence(labels=9, mean_gain=-0.4, log_wealth=4.0),
    }
    verdict = judges.judge_canary(canary(evidence(log_wealth_class_veto=4.0, classes=classes)))
    assert "class 'b' gains -0.400" in verdict.message
