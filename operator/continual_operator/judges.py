"""Small pure judges of one shape: facts in, reason, message and verdict out.

None of them knows a clock, a client or a status: what they judge is in their one argument, a frozen document that the ledger keeps,
so any judgement can be made again from the ledger, bit for bit (`replay`). Doubt is never a pass: whatever is missing, stale
or not a number ends in a verdict that is neither.

Sources: sequential tests Waudby-Smith & Ramdas, arXiv 2010.09686; alpha over a stream of candidates: e-LOND, Xu & Ramdas,
arXiv 2306.10617.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from continual_contract.artifacts import FirstScores, HoldoutScores
from continual_contract.errors import UsageError
from continual_contract.report import PairEvidence
from cronsim import CronSim
from pydantic import BaseModel, ConfigDict

from continual_operator import reasons
from continual_operator.chance import binomial_tail
from continual_operator.ledger import LedgerEntry
from continual_operator.quantity import format_duration
from continual_operator.spec import Gate, OfflineGate, Probation, Serving, Step, Trigger

Outcome = Literal[
    "Promote", "Rollback", "Inconclusive", "NoLabels", "Error", "Pass", "Reject", "Due", "NotDue", "Advance", "Stay"
]

ALPHA_PERIOD = timedelta(days=30)
ERRORS_THAT_COUNT = 3
"""Dead letters below which a share of them says nothing."""
OFFLINE_ALPHA = 0.05
"""How often a candidate as good as its parent may fail a check of the offline gate by luck: a filter before live traffic, not the judge."""
FLOOR = 0.15
"""What a candidate may lose against the first version where nothing is declared: honest drift took 10 points of a class at most (decision 0230)."""
LATENCY_FLOOR_US = 2000.0
"""Differences of p95 below this many microseconds per image harm nobody, whatever their ratio."""
LATENCY_ANSWERS = 100
PARITY_TOLERANCE = 1e-3
"""Largest |torch - onnxruntime| over logits that export may cost."""
MAX_BACK_OFF = timedelta(hours=24)
SCALE_DOWN_AFTER = timedelta(minutes=5)
CORRECTION_BATCH = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says. `trigger` names what made a retraining due."""

    outcome: Outcome
    reason: str
    message: str = ""
    trigger: str = ""

    @property
    def decided(self) -> bool:
        return self.outcome in {"Promote", "Rollback"}


class Facts(BaseModel):
    """A judge's input: frozen, and what the ledger keeps of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


# The live gate --------------------------------------------------------------------------------------------------------------


class CanaryFacts(Facts):
    """Everything the live gate looks at."""

    gate: Gate
    alpha: float
    evidence: PairEvidence | None
    report_age_seconds: float | None
    """None: there is no report."""
    report_limit_seconds: float = 60.0
    elapsed: timedelta
    """Since the shadow began."""
    cycles_seen: int = 0
    approved: bool = False
    lag_seconds: float | None = None
    stable_lag_seconds: float | None = None
    answers: int = 0
    error_rate: float = 0.0
    stable_error_rate: float = 0.0
    p95_us: float | None = None
    stable_answers: int = 0
    stable_p95_us: float | None = None


def judge_canary(facts: CanaryFacts) -> Verdict:
    """Judge the canary: its own faults first, then what the labels say against it, then every doubt, then what they say for it."""
    return (
        _operational_fault(facts)
        or _unknown(facts.evidence, facts.report_age_seconds, facts.report_limit_seconds)
        or _evidence_against(facts)
        or _doubt(facts)
        or _evidence_for(facts)
    )


def _operational_fault(facts: CanaryFacts) -> Verdict | None:
    if _silent(facts.report_age_seconds, facts.report_limit_seconds):
        return None  # numbers of a silent evaluator convict nobody
    limit = facts.gate.max_lag.total_seconds()
    behind = (facts.lag_seconds or 0.0) - (facts.stable_lag_seconds or 0.0)
    if behind > limit:
        return Verdict("Rollback", reasons.LAGS, f"{behind:.0f} s further behind than stable, limit {limit:.0f} s")
    errors = facts.error_rate * facts.answers / (1.0 - facts.error_rate) if facts.error_rate < 1.0 else math.inf
    worst = max(
        facts.gate.max_error_rate, facts.stable_error_rate
    )  # what stable cannot answer either is the stream's fault
    if facts.error_rate > worst and errors >= ERRORS_THAT_COUNT:
        return Verdict(
            "Rollback",
            reasons.ERROR_RATE,
            f"{facts.error_rate:.1%} dead letters, limit {facts.gate.max_error_rate:.1%}",
        )
    return None


def _silent(age: float | None, limit: float) -> bool:
    return age is None or not age <= limit


def _unknown(evidence: PairEvidence | None, age: float | None, limit: float) -> Verdict | None:
    if _silent(age, limit):
        said = "no report" if age is None else f"last report {age:.0f} s ago"
        return Verdict("Error", reasons.EVALUATOR_SILENT, said)
    if evidence is None or evidence.pairs == 0:
        return Verdict("NoLabels", reasons.NO_LABELS, "no labelled pair yet")
    if not _finite(evidence):
        return Verdict("Error", reasons.EVIDENCE_INVALID, "the evidence holds a number that is none")
    return None


def _finite(evidence: PairEvidence) -> bool:
    numbers = (
        evidence.mean_gain, evidence.gain_lower, evidence.gain_upper, evidence.log_wealth_not_inferior,
        evidence.log_wealth_worse, evidence.log_wealth_class_veto,
        0.0 if evidence.coverage_percent is None else evidence.coverage_percent,
    )  # fmt: skip
    return not any(math.isnan(number) for number in numbers) and math.isfinite(evidence.mean_gain)


def _rejects(log_wealth: float, alpha: float) -> bool:
    """Ville: the chance that a true null's wealth ever reaches 1/α is at most α."""
    return log_wealth >= -math.log(alpha)


def _evidence_against(facts: CanaryFacts) -> Verdict | None:
    evidence, gate = _present(facts.evidence), facts.gate
    if _rejects(evidence.log_wealth_worse, gate.rollback_alpha):
        return Verdict(
            "Rollback",
            reasons.ACCURACY_DROPPED,
            f"paired gain at most {evidence.gain_upper:+.3f} over {evidence.pairs} pairs",
        )
    if _rejects(evidence.log_wealth_class_veto, gate.class_alpha):
        worst = min(evidence.classes.items(), key=lambda item: item[1].mean_gain, default=None)
        shown = f"class {worst[0]!r} gains {worst[1].mean_gain:+.3f}" if worst else "a class loses"
        return Verdict("Rollback", reasons.CLASS_DROPPED, f"{shown}, margin {gate.worst_class_margin}")
    return None


def _doubt(facts: CanaryFacts) -> Verdict | None:
    evidence, gate = _present(facts.evidence), facts.gate
    coverage = evidence.coverage_percent
    if coverage is None:
        return Verdict(
            "Inconclusive", reasons.COVERAGE_UNKNOWN, "no audited request is older than the feedback window yet"
        )
    if coverage < gate.min_coverage:
        return Verdict(
            "Inconclusive",
            reasons.LOW_COVERAGE,
            f"{coverage:.1f} % of audited requests labelled, {gate.min_coverage:g} % needed",
        )
    if evidence.pairs < gate.min_labels:
        return Verdict("Inconclusive", reasons.TOO_FEW_LABELS, f"{evidence.pairs} of {gate.min_labels} labelled pairs")
    if facts.elapsed < gate.min_duration:
        left = format_duration(gate.min_duration - facts.elapsed)
        return Verdict("Inconclusive", reasons.TOO_EARLY, f"{left} until minDuration")
    if gate.cycle > timedelta(0) and whole_cycles(facts.elapsed, gate.cycle) <= facts.cycles_seen:
        return Verdict("Inconclusive", reasons.MID_CYCLE, f"{facts.cycles_seen} whole cycles seen")
    return _too_slow(facts)


def _too_slow(facts: CanaryFacts) -> Verdict | None:
    ours, theirs = facts.p95_us, facts.stable_p95_us
    if ours is None or theirs is None or min(facts.answers, facts.stable_answers) < LATENCY_ANSWERS:
        return None
    if ours - theirs > LATENCY_FLOOR_US and ours > theirs * facts.gate.max_latency_ratio:
        return Verdict(
            "Inconclusive", reasons.TOO_SLOW, f"p95 {ours / 1000:.1f} ms per image, stable {theirs / 1000:.1f} ms"
        )
    return None


def _evidence_for(facts: CanaryFacts) -> Verdict:
    evidence, gate = _present(facts.evidence), facts.gate
    shown = f"paired gain between {evidence.gain_lower:+.3f} and {evidence.gain_upper:+.3f} over {evidence.pairs} pairs"
    if not _rejects(evidence.log_wealth_not_inferior, facts.alpha):
        return Verdict("Inconclusive", reasons.INTERVAL_TOO_WIDE, shown)
    if gate.require_approval and not facts.approved:
        return Verdict("Inconclusive", reasons.AWAITING_APPROVAL, shown)
    return Verdict("Promote", reasons.ACCURACY_HELD, f"{shown}, margin {gate.margin:g}, alpha {facts.alpha:.4f}")


def _present(evidence: PairEvidence | None) -> PairEvidence:
    if evidence is None:
        raise AssertionError("evidence is judged only when there is some")
    return evidence


def whole_cycles(elapsed: timedelta, cycle: timedelta) -> int:
    return int(elapsed // cycle) if cycle > timedelta(0) else 0


class StepFacts(Facts):
    """When the canary's share may rise."""

    steps: tuple[Step, ...]
    step: int
    in_step: timedelta
    gate: Gate
    verdict: str
    reason: str
    pairs: int = 0
    mean_gain: float | None = None


def next_step(facts: StepFacts) -> Verdict:
    """Whether the share rises now: never without labels, never while they speak against it, never before the hold has passed."""
    if facts.step + 1 >= len(facts.steps):
        return Verdict("Stay", reasons.HOLDING, "the last step")
    hold = facts.steps[facts.step].hold
    if facts.in_step < hold:
        return Verdict("Stay", reasons.HOLDING, f"{format_duration(hold - facts.in_step)} of the hold left")
    if facts.verdict not in {"Inconclusive", "Promote"} or facts.reason == reasons.LOW_COVERAGE:
        return Verdict("Stay", facts.reason, "the share does not rise on doubt")
    if facts.pairs < facts.gate.min_labels:
        return Verdict("Stay", reasons.TOO_FEW_LABELS, f"{facts.pairs} of {facts.gate.min_labels} labelled pairs")
    if facts.mean_gain is None or not facts.mean_gain >= -facts.gate.margin:
        return Verdict("Stay", reasons.HOLDING, f"mean gain {facts.mean_gain or 0.0:+.3f} is below the margin")
    weight = facts.steps[facts.step + 1].weight
    return Verdict(
        "Advance", reasons.STEP_PASSED, f"{facts.pairs} pairs, mean gain {facts.mean_gain:+.3f}: weight {weight}"
    )


class DeadlineFacts(Facts):
    """What ends a judgement that the evidence does not end."""

    verdict: str
    reason: str
    message: str
    elapsed: timedelta
    deadline: timedelta
    on_inconclusive: Literal["Rollback", "Wait", "Promote"]
    last_step: bool
    approval_missing: bool = False


def judge_deadline(facts: DeadlineFacts) -> Verdict:
    """The declared default at the declared deadline. Promote acts on the last step and never over a missing approval."""
    verdict: Outcome = facts.verdict  # type: ignore[assignment]  # an outcome of judge_canary
    if verdict in {"Promote", "Rollback"} or facts.elapsed < facts.deadline or facts.on_inconclusive == "Wait":
        return Verdict(verdict, facts.reason, facts.message)
    ended = f"after {format_duration(facts.deadline)}: {facts.reason}, {facts.message}"
    if facts.on_inconclusive == "Promote" and facts.last_step and not facts.approval_missing:
        return Verdict("Promote", reasons.DEADLINE_PASSED, f"{ended}; declared default Promote")
    return Verdict("Rollback", reasons.DEADLINE_PASSED, ended)


def alpha_of(alpha: float, started: int, promotions: int) -> float:
    """e-LOND: the level of candidate number `started` (from 1) after `promotions` discoveries in this period."""
    return alpha * (promotions + 1) / (started * (started + 1))


# Probation ------------------------------------------------------------------------------------------------------------------


class ProbationFacts(Facts):
    """What is known of a promoted version beside the warm one it replaced."""

    probation: Probation
    evidence: PairEvidence | None
    report_age_seconds: float | None
    report_limit_seconds: float = 60.0
    elapsed: timedelta


def judge_probation(facts: ProbationFacts) -> Verdict:
    """Rollback looks always; a pass needs time and labels; the deadline ends what stays unproven, and says so."""
    unknown = _unknown(facts.evidence, facts.report_age_seconds, facts.report_limit_seconds)
    if unknown is None:
        evidence = _present(facts.evidence)
        if _rejects(evidence.log_wealth_worse, facts.probation.alpha):
            return Verdict(
                "Rollback",
                reasons.ACCURACY_DROPPED,
                f"paired gain at most {evidence.gain_upper:+.3f} over {evidence.pairs} pairs",
            )
        if facts.elapsed >= facts.probation.min_duration and evidence.pairs >= facts.probation.min_labels:
            return Verdict(
                "Pass", reasons.PROBATION_PASSED, f"{evidence.pairs} pairs, mean gain {evidence.mean_gain:+.3f}"
            )
    if facts.elapsed >= facts.probation.deadline:
        pairs = facts.evidence.pairs if facts.evidence else 0
        return Verdict(
            "Pass", reasons.PROBATION_UNPROVEN, f"{pairs} of {facts.probation.min_labels} pairs by the deadline"
        )
    return unknown or Verdict("Inconclusive", reasons.ON_PROBATION, f"{_present(facts.evidence).pairs} pairs so far")


# The offline gate -----------------------------------------------------------------------------------------------------------


class OfflineFacts(Facts):
    """A trained candidate on its holdout, beside its parent on the same samples."""

    gate: OfflineGate
    scores: HoldoutScores
    classes: int
    finite_loss: bool
    parity_max_abs_diff: float
    has_parent: bool
    first: FirstScores | None = None
    """Beside the first accepted version; None: not measured (a first version, an older trainer)."""
    replays: bool = True
    """Its strategy shows it images of the past."""


def offline_gate(facts: OfflineFacts) -> Verdict:
    """Judge a candidate by its holdout. A model whose numbers or export are broken never passes, in any mode."""
    broken = _broken(facts)
    if broken is not None:
        return broken
    failed = _offline_change(facts) if facts.has_parent else _offline_value(facts)
    failed = failed or _below_first(facts)
    if failed is None:
        return Verdict("Pass", reasons.OFFLINE_PASSED, _offline_numbers(facts.scores))
    if facts.gate.mode == "Observe":
        return Verdict("Pass", reasons.OFFLINE_OBSERVED, f"{failed.reason}: {failed.message}")
    return failed


def _broken(facts: OfflineFacts) -> Verdict | None:
    if not facts.finite_loss or not math.isfinite(facts.scores.accuracy):
        return Verdict("Reject", reasons.NOT_FINITE, "the loss or the accuracy is not finite")
    if not facts.parity_max_abs_diff <= PARITY_TOLERANCE:
        return Verdict(
            "Reject", reasons.PARITY, f"logits differ by {facts.parity_max_abs_diff:.2g}, limit {PARITY_TOLERANCE:g}"
        )
    return None


def _offline_value(facts: OfflineFacts) -> Verdict | None:
    floor = 1.5 / facts.classes
    if facts.scores.samples == 0:
        return Verdict("Reject", reasons.NO_HOLDOUT, "no held-out sample")
    if facts.scores.accuracy <= floor:
        return Verdict(
            "Reject", reasons.TOO_INACCURATE, f"accuracy {facts.scores.accuracy:.3f}, must exceed {floor:.3f}"
        )
    return None


def _offline_change(facts: OfflineFacts) -> Verdict | None:
    """What is beyond a limit, and beyond what chance does to a holdout of this size."""
    scores, gate = facts.scores, facts.gate
    if scores.samples == 0 or scores.parent_accuracy is None:
        return Verdict("Reject", reasons.NO_HOLDOUT, "no held-out sample answered by parent and candidate")
    drop, flips = scores.parent_accuracy - scores.accuracy, scores.negative_flips
    if flips is not None and not math.isfinite(flips):
        return Verdict("Reject", reasons.NEGATIVE_FLIPS, "the share of negative flips is not finite")
    if not drop <= gate.max_drop and _is_no_accident(drop, scores):
        return Verdict(
            "Reject", reasons.ACCURACY_DROPPED_OFFLINE, f"accuracy drops by {drop:.3f}, limit {gate.max_drop:g}"
        )
    worst = _worst_class(scores, gate.max_class_drop)
    if worst is not None:
        return Verdict(
            "Reject",
            reasons.CLASS_DROPPED_OFFLINE,
            f"class {worst[0]!r} drops by {worst[1]:.3f}, limit {gate.max_class_drop:g}",
        )
    if (
        flips is not None
        and not flips <= gate.max_negative_flips
        and _are_too_many(flips, scores.samples, gate.max_negative_flips)
    ):
        return Verdict(
            "Reject",
            reasons.NEGATIVE_FLIPS,
            f"{flips:.3f} of the holdout turned wrong, limit {gate.max_negative_flips:g}",
        )
    return None


def _below_first(facts: OfflineFacts) -> Verdict | None:
    """The floor (C6): labels wrong all in one way move the holdout and the live gate with them; the first data set's they cannot reach."""
    first = facts.first
    if first is None:
        return None
    declared = facts.gate.max_drop_from_first
    limit = declared if declared is not None else FLOOR if facts.replays else 1.0
    return _fallen(first.held, limit, "held-out") or _fallen(first.learned, limit, "training")


def _fallen(scores: HoldoutScores, limit: float, part: str) -> Verdict | None:
    if scores.samples == 0 or scores.parent_accuracy is None:
        return None
    worst, drop = _worst_class(scores, limit), scores.parent_accuracy - scores.accuracy
    if worst is not None:
        what, now, then = f"class {worst[0]!r}", scores.per_class[worst[0]], scores.parent_per_class[worst[0]]
    elif not drop <= limit and _is_no_accident(drop, scores):
        what, now, then = "overall", scores.accuracy, scores.parent_accuracy
    else:
        return None
    return Verdict(
        "Reject",
        reasons.BELOW_FIRST,
        f"{what}: {now:.3f} on the first data set's {part} samples, the first version {then:.3f}, limit {limit:g}; "
        "look for wrong labels, or raise rollout.offlineGate.maxDropFromFirst if the world has changed",
    )


def _is_no_accident(drop: float, scores: HoldoutScores) -> bool:
    """Sign test (McNemar 1947): samples lost against samples gained. Not a number convicts."""
    if not math.isfinite(drop):
        return True
    lost = max(drop, scores.negative_flips or 0.0) * scores.samples
    return binomial_tail(lost, 2 * lost - drop * scores.samples, 0.5) <= OFFLINE_ALPHA


def _are_too_many(flips: float, samples: int, limit: float) -> bool:
    """More than a candidate at the very limit would show."""
    return binomial_tail(flips * samples, samples, limit) <= OFFLINE_ALPHA


def _worst_class(scores: HoldoutScores, limit: float) -> tuple[str, float] | None:
    """The class that lost most, among those that lost more than the limit and more than their size's share of all losses.

    One candidate has as many chances to look forgetful as there are classes: they share the level (Bonferroni).
    """
    names = sorted(scores.per_class.keys() & scores.parent_per_class.keys())
    drops = {name: scores.parent_per_class[name] - scores.per_class[name] for name in names}
    sizes = {name: scores.per_class_samples.get(name, 0) for name in names}
    lost = {name: max(0.0, drops[name] * sizes[name]) for name in names}
    total = min(max((scores.negative_flips or 0.0) * scores.samples, math.fsum(lost.values())), scores.samples)
    forgotten = [
        (name, drops[name])
        for name in names
        if drops[name] > limit
        and (
            not math.isfinite(drops[name])
            or binomial_tail(lost[name], total, sizes[name] / scores.samples) <= OFFLINE_ALPHA / len(names)
        )
    ]
    return max(forgotten, key=lambda item: item[1], default=None)


def _offline_numbers(scores: HoldoutScores) -> str:
    parent = "" if scores.parent_accuracy is None else f", parent {scores.parent_accuracy:.3f}"
    return f"holdout accuracy {scores.accuracy:.3f} on {scores.samples} samples{parent}"


# Retraining -----------------------------------------------------------------------------------------------------------------


class RetrainingFacts(Facts):
    """What the triggers and their limits look at."""

    triggers: tuple[Trigger, ...]
    cooldown: timedelta
    max_per_day: int
    max_failures: int
    now: datetime
    samples: int
    """Released labelled samples that no ended training has seen."""
    corrections_ready: bool = False
    corrections_allowed: bool = True
    manual: bool = False
    drift_alarm: bool = False
    """An alarm of the stable version that nothing has answered yet."""
    drift_samples: int = 0
    """Labelled samples of shards that closed after the alarm."""
    recent_accuracy: float | None = None
    recent_labels: int = 0
    schedules: dict[str, datetime] = {}
    """Last handled time of each schedule (a new one: when it was first seen)."""
    in_flight: bool = False
    candidate_waits: bool = False
    starts_today: int = 0
    ended: datetime | None = None
    failures: int = 0


def retraining_due(facts: RetrainingFacts) -> Verdict:
    """Whether a training starts now, and why: the most urgent trigger first, then every limit that holds for it."""
    trigger = _trigger(facts)
    if trigger is None:
        return Verdict("NotDue", reasons.NOTHING_DUE, f"{facts.samples} new samples")
    reason, message = trigger
    if facts.in_flight:
        return Verdict("NotDue", reasons.IN_FLIGHT, message, reason)
    urgent = reason in {reasons.DRIFT, reasons.CORRECTION, reasons.MANUAL}
    if facts.candidate_waits and not urgent:
        return Verdict("NotDue", reasons.CANDIDATE_WAITS, message, reason)
    if reason != reasons.CORRECTION and facts.samples == 0:
        return Verdict("NotDue", reasons.NO_NEW_SAMPLES, message, reason)
    if reason == reasons.DRIFT and facts.drift_samples < (wanted := _min_drift_samples(facts.triggers)):
        collected = f"{facts.drift_samples} of {wanted} samples since the drift alarm"
        return Verdict("NotDue", reasons.AWAITING_SAMPLES, collected, reason)
    limited = _limited(facts, reason)
    return limited or Verdict("Due", reason, message, reason)


def _trigger(facts: RetrainingFacts) -> tuple[str, str] | None:
    if facts.manual:
        return reasons.MANUAL, "asked for by hand"
    if facts.corrections_ready and facts.corrections_allowed:
        return reasons.CORRECTION, "a corrected image"
    for trigger in sorted(facts.triggers, key=lambda t: t.drift is None):
        fired = _fires(trigger, facts)
        if fired is not None:
            return fired
    return None


def _min_drift_samples(triggers: tuple[Trigger, ...]) -> int:
    return min((trigger.drift.min_samples for trigger in triggers if trigger.drift is not None), default=1)


def _fires(trigger: Trigger, facts: RetrainingFacts) -> tuple[str, str] | None:
    if trigger.drift is not None and facts.drift_alarm:
        return reasons.DRIFT, "the drift detector raised an alarm"
    if trigger.labels is not None and facts.samples >= trigger.labels:
        return reasons.LABELS, f"{facts.samples} new samples, {trigger.labels} asked for"
    if trigger.accuracy_below is not None and trigger.over_labels is not None:
        enough = facts.recent_labels >= min(trigger.over_labels, 500)
        if enough and facts.recent_accuracy is not None and facts.recent_accuracy < trigger.accuracy_below:
            return (
                reasons.ACCURACY_BELOW,
                f"accuracy {facts.recent_accuracy:.3f} over {facts.recent_labels} labels, floor {trigger.accuracy_below:g}",
            )
    if trigger.schedule is not None and (fire := schedule_fires(trigger, facts.schedules, facts.now)) is not None:
        return reasons.SCHEDULE, f"{trigger.schedule} at {fire.isoformat()}"
    return None


def schedule_key(trigger: Trigger) -> str:
    return f"{trigger.schedule} {trigger.time_zone or 'UTC'}"


def schedule_fires(trigger: Trigger, handled: Mapping[str, datetime], now: datetime) -> datetime | None:
    """The first time of the schedule after the last handled one, if it has come; a schedule never seen before fires only in the future."""
    since = handled.get(schedule_key(trigger))
    if since is None or trigger.schedule is None:
        return None
    fire = next(CronSim(trigger.schedule, since.astimezone(ZoneInfo(trigger.time_zone or "UTC"))))
    return fire if fire <= now else None


def _limited(facts: RetrainingFacts, reason: str) -> Verdict | None:
    by_hand = reason == reasons.MANUAL
    if facts.starts_today >= facts.max_per_day and not by_hand:
        return Verdict(
            "NotDue",
            reasons.DAILY_LIMIT,
            f"{facts.starts_today} within 24 hours, maxPerDay {facts.max_per_day}",
            reason,
        )
    if by_hand or reason == reasons.CORRECTION:
        return None
    if facts.failures >= facts.max_failures:
        return Verdict(
            "NotDue", reasons.TOO_MANY_FAILURES, f"{facts.failures} in a row; ask by hand, or change the spec", reason
        )
    pause = back_off(facts.cooldown, facts.failures)
    if facts.ended is not None and facts.now - facts.ended < pause:
        left = format_duration(pause - (facts.now - facts.ended))
        return Verdict("NotDue", reasons.BACK_OFF if facts.failures else reasons.COOLDOWN, f"{left} left", reason)
    return None


def back_off(cooldown: timedelta, failures: int) -> timedelta:
    """The pause after a training: the cooldown, doubled for every failure in a row, at most a day."""
    return max(cooldown, min(cooldown * float(2 ** min(failures, 30)), MAX_BACK_OFF))


# Size -----------------------------------------------------------------------------------------------------------------------


class ScaleFacts(Facts):
    serving: Serving
    current: int
    backlog: int | None
    """None: unknown; the size stays."""
    low_for: timedelta | None = None
    """How long fewer pods would have done."""


@dataclass(frozen=True, slots=True)
class Size:
    replicas: int
    low: bool
    """Fewer would do, for not long enough yet."""


def scale(facts: ScaleFacts) -> Size:
    """Pods of the stable version: up at once, down after five quiet minutes; without autoscaling what was declared."""
    auto = facts.serving.autoscaling
    if auto is None:
        return Size(facts.serving.replicas, low=False)
    current = min(max(facts.current or auto.min_replicas, auto.min_replicas), auto.max_replicas)
    if facts.backlog is None:
        return Size(current, low=False)
    wanted = min(max(math.ceil(facts.backlog / auto.target_backlog), auto.min_replicas), auto.max_replicas)
    if wanted >= current:
        return Size(wanted, low=False)
    if facts.low_for is not None and facts.low_for >= SCALE_DOWN_AFTER:
        return Size(wanted, low=False)
    return Size(current, low=True)


def canary_size(replicas: int, weight: int, shadow_percent: float) -> int:
    """Pods a canary needs: it answers its share, or in the dark the shadow's, whichever is more; at least one."""
    return max(1, math.ceil(replicas * max(weight, shadow_percent) / 100))


# Garbage --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keep:
    """What retention leaves: version numbers of the status, digests of the store."""

    versions: frozenset[str]
    digests: frozenset[str]


def garbage(records: tuple[tuple[str, str, str | None], ...], needed: frozenset[str], retained: int) -> Keep:
    """What stays: `records` are (version, digest, parent), oldest first; `needed` versions and their parents stay whatever their age."""
    newest = {version for version, _, _ in records[-retained:]}
    versions = frozenset(newest | {version for version, _, _ in records if version in needed})
    digests = {digest for version, digest, _ in records if version in versions}
    parents = {parent for version, _, parent in records if version in needed and parent is not None}
    return Keep(versions, frozenset(digests | parents))


# Replay ---------------------------------------------------------------------------------------------------------------------

JUDGES: dict[str, tuple[type[Facts], Callable[[Any], Verdict]]] = {
    "judge_canary": (CanaryFacts, judge_canary),
    "next_step": (StepFacts, next_step),
    "judge_deadline": (DeadlineFacts, judge_deadline),
    "judge_probation": (ProbationFacts, judge_probation),
    "offline_gate": (OfflineFacts, offline_gate),
    "retraining_due": (RetrainingFacts, retraining_due),
}


def dump_facts(facts: Facts) -> dict[str, Any]:
    """A judge's input as the ledger keeps it: JSON, and back without loss."""
    return facts.model_dump(mode="json", by_alias=False)


def replay(entry: LedgerEntry, evidence: PairEvidence | None = None) -> Verdict:
    """Judge a ledger entry again; with `evidence` recomputed from the stored pairs in place of the recorded one.

    Raises:
        UsageError: no judge made this decision (a person did, or it is a fact).
    """
    if entry.judge not in JUDGES or entry.facts is None:
        raise UsageError(
            "no judge made this decision, there is nothing to replay",
            field=f"decision {entry.sequence}", value=entry.reason, remedy="choose one with a verdict of the gate",
        )  # fmt: skip
    kind, judge = JUDGES[entry.judge]
    facts = kind.model_validate_json(json.dumps(entry.facts))
    return judge(facts if evidence is None else facts.model_copy(update={"evidence": evidence}))
