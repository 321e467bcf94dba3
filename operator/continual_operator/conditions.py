"""What people see: conditions, blocks and numbers, derived from the observation and the next status.

Each condition says one thing, is True when all is well (but for Degraded, Training and DataLoss, which name what is the case), and has a documented reason. The time of its
last transition moves only when its status does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Literal, TypeVar

from continual_contract.report import PairEvidence, Report, VersionScores

from continual_operator import judges, labels, reasons
from continual_operator.converge import desired_route
from continual_operator.draft import Draft
from continual_operator.judges import ScaleFacts, Verdict, judge_canary, judge_probation
from continual_operator.observation import JobFacts
from continual_operator.rollout import canary_facts, report_age
from continual_operator.status import (
    Accuracy,
    Block,
    Canary,
    Condition,
    Evidence,
    ProbationStatus,
    Stable,
    Status,
    Training,
)

BlockT = TypeVar("BlockT", bound=Block)
State = Literal["True", "False", "Unknown"]
Said = tuple[State, str, str]
"""status, reason, message"""
RESET = "the routing table was gone: Redis lost its data; it is routed anew"
RESET_SETTLES = timedelta(seconds=60)
RESET_SHOWN = timedelta(hours=24)
"""How long a lost routing table is told of: it is there again within a second, and what waited in Redis is not."""


def show(draft: Draft) -> Draft:
    """Fill in what informs: numbers of the blocks, size, conditions."""
    draft = _resize(draft)
    status, report = draft.status, _report(draft)
    status = status.replaced(
        observed_generation=draft.obs.model.generation,
        uid=draft.obs.model.uid,
        classes=draft.spec.model.classes,
        stable=_numbers(draft, status.stable, report),
        canary=_canary(draft, status.canary, report),
        next=_numbers(draft, status.next, report),
        probation=_probation(draft, status.probation, report),
        backlog=report.backlog if report else status.backlog,
        replicas=draft.obs.pods(status.stable.version) if status.stable else 0,
        selector=_selector(draft, status),
        training=_progress(draft, status),
        group_generation=max(status.group_generation, draft.obs.routing.gen if draft.obs.routing else 0),
    )
    return replace(draft, status=status.replaced(conditions=conditions(draft, status)))


def _report(draft: Draft) -> Report | None:
    report = draft.obs.report
    return report if report is not None and report.uid == draft.obs.model.uid else None


def _selector(draft: Draft, status: Status) -> str:
    if status.stable is None:
        return ""
    return f"{labels.MODEL}={draft.obs.model.name},{labels.COMPONENT}={labels.INFERENCE},{labels.VERSION}={status.stable.version}"


def _resize(draft: Draft) -> Draft:
    """Autoscaling of the stable version. The size it had is kept while nothing is known."""
    stable, report = draft.status.stable, _report(draft)
    if stable is None:
        return draft
    fresh = report is not None and (report_age(draft) or 0.0) < 60.0
    facts = ScaleFacts(
        serving=draft.spec.serving, current=stable.replicas, backlog=report.backlog if report and fresh else None,
        low_for=draft.now - stable.low_since if stable.low_since else None,
    )  # fmt: skip
    size = judges.scale(facts)
    low_since = (stable.low_since or draft.now) if size.low else None
    return draft.to(stable=stable.model_copy(update={"replicas": size.replicas, "low_since": low_since}))


def _numbers(draft: Draft, block: BlockT | None, report: Report | None) -> BlockT | None:
    if block is None:
        return None
    scores = report.versions.get(block.version) if report else None
    update: dict[str, object] = {"ready_replicas": draft.obs.ready(block.version)}
    if scores is not None:
        update |= {"labels": scores.labels, "accuracy": _accuracy(scores)}
    return block.model_copy(update=update)


def _accuracy(scores: VersionScores) -> Accuracy | None:
    if scores.accuracy is None or scores.lower is None or scores.upper is None:
        return None
    return Accuracy(value=f"{scores.accuracy:.3f}", lower=f"{scores.lower:.3f}", upper=f"{scores.upper:.3f}")


def _canary(draft: Draft, canary: Canary | None, report: Report | None) -> Canary | None:
    shown = _numbers(draft, canary, report)
    if shown is None or shown.since is None:
        return shown
    facts = canary_facts(draft, shown)
    return shown.model_copy(update={"evidence": _evidence(facts.evidence, judge_canary(facts))})


def _probation(draft: Draft, probation: ProbationStatus | None, report: Report | None) -> ProbationStatus | None:
    shown = _numbers(draft, probation, report)
    if shown is None or shown.since is None:
        return shown
    pair = report.pair if report and report.pair and report.pair.evidence_id == shown.evidence_id else None
    facts = judges.ProbationFacts(
        probation=draft.spec.rollout.probation, evidence=pair, report_age_seconds=report_age(draft),
        elapsed=draft.now - shown.started,
    )  # fmt: skip
    return shown.model_copy(update={"evidence": _evidence(pair, judge_probation(facts))})


def _evidence(pair: PairEvidence | None, verdict: Verdict) -> Evidence:
    said = {"verdict": verdict.outcome, "reason": verdict.reason, "message": verdict.message}
    if pair is None:
        return Evidence(**said)
    return Evidence(
        pairs=pair.pairs, mean_gain=f"{pair.mean_gain:+.3f}", lower=f"{pair.gain_lower:+.3f}", upper=f"{pair.gain_upper:+.3f}",
        discordant=pair.wins + pair.losses,
        coverage_percent=None if pair.coverage_percent is None else f"{pair.coverage_percent:.1f}",
        promote_p=_level(pair.log_wealth_not_inferior), rollback_p=_level(pair.log_wealth_worse),
        class_veto_p=_level(pair.log_wealth_class_veto), **said,
    )  # fmt: skip


def _level(log_wealth: float) -> str:
    """The level at which this wealth rejects: 1/wealth, at most 1."""
    return "nan" if math.isnan(log_wealth) else f"{math.exp(-max(0.0, log_wealth)):.3f}"


def _progress(draft: Draft, status: Status) -> Training | None:
    """Where the training is, for people."""
    training = status.training
    if training is None:
        return None
    progress = draft.obs.progress if training.in_flight else None
    shown = training.model_copy(update={"progress": progress or training.progress})
    return shown.model_copy(update={"summary": _summary(shown, _job_in_trouble(draft))})


def _summary(training: Training, stuck: JobFacts | None) -> str:
    """`Running 3/20`; a reason where its pods do not run."""
    if stuck is not None:
        return stuck.trouble.reason
    progress = training.progress
    if training.in_flight and progress is not None and progress.epochs:
        return f"{training.state} {progress.epoch}/{progress.epochs}"
    return training.state


# Conditions -----------------------------------------------------------------------------------------------------------------


def conditions(draft: Draft, status: Status) -> tuple[Condition, ...]:
    said: dict[str, Said] = {
        "SpecValid": _spec_valid(draft, status),
        "Serving": _serving(draft, status),
        "Training": _training(draft, status),
        "CanaryHealthy": _canary_healthy(status),
        "Degraded": _degraded(draft, status),
        "DataLoss": _data_loss(draft),
    }
    ready = _ready(draft, said)
    return tuple(condition(draft, status, kind, *said) for kind, said in {"Ready": ready, **said}.items())


def condition(draft: Draft, status: Status, kind: str, state: State, reason: str, message: str) -> Condition:
    before = next((c for c in status.conditions if c.type == kind), None)
    since = before.last_transition_time if before is not None and before.status == state else draft.now
    return Condition(
        type=kind, status=state, reason=reason, message=message[:500], observed_generation=draft.obs.model.generation,
        last_transition_time=since,
    )  # fmt: skip


def _ready(draft: Draft, said: dict[str, Said]) -> Said:
    """All of it as one word: a spec that can be followed, answers that are given, and nothing gone that both depend on."""
    for kind in ("SpecValid", "Serving"):
        state, reason, message = said[kind]
        if state != "True":
            return state, reason, message
    if (reset := _reset(draft)) is not None:
        return "False", reasons.STREAM_RESET, reset
    if not draft.obs.store_ok:
        return "False", reasons.STORE_DOWN, f"{draft.obs.problem}; {said['Serving'][2]}"
    return "True", reasons.ALL_GOOD, said["Serving"][2]


def _reset(draft: Draft) -> str | None:
    """What to say while Redis has lost its data and the evaluator has not been heard of since; a silent one is waited for a minute."""
    if _has_lost_routing(draft):
        return RESET
    before = next((c for c in draft.status.conditions if c.type == "Ready"), None)
    if before is None or before.reason != reasons.STREAM_RESET:
        return None
    report, since = _report(draft), before.last_transition_time
    heard = report is not None and report.time_ms / 1000 >= since.timestamp()
    return None if heard or draft.now - since >= RESET_SETTLES else RESET


def _has_lost_routing(draft: Draft) -> bool:
    return draft.obs.redis_ok and draft.obs.routing is None and draft.status.group_generation > 0


def _spec_valid(draft: Draft, status: Status) -> Said:
    pinned = draft.spec.rollout.pinned_version
    if pinned is not None and status.stable is not None and status.record(pinned) is None:
        return (
            "False",
            reasons.PIN_UNKNOWN,
            f"spec.rollout.pinnedVersion: {pinned} does not exist; name one of status.versions",
        )
    return "True", reasons.ALL_GOOD, ""


def _serving(draft: Draft, status: Status) -> Said:
    if status.stable is None:
        return "False", *_why_no_version(draft)
    why = _unanswered(draft, status.stable, status)
    if why is not None:
        return "False", *why
    ready, wanted = draft.obs.ready(status.stable.version), status.stable.replicas
    return "True", reasons.ALL_GOOD, f"{status.stable.version} serves with {ready} of {wanted} pods"


def _unanswered(draft: Draft, stable: Stable, status: Status) -> tuple[str, str] | None:
    """Why no request is answered now."""
    if not draft.obs.redis_ok:
        return reasons.REDIS_DOWN, draft.obs.problem
    if _has_lost_routing(draft):
        return reasons.STREAM_RESET, RESET
    child = draft.obs.deployment(stable.version)
    if stable.replicas == 0:
        return reasons.SCALED_TO_ZERO, "spec.serving.replicas is 0; requests wait in the stream"
    if child is None or child.ready == 0:
        said = f"0 of {stable.replicas} pods of {stable.version} are Ready"
        trouble = child.trouble if child else None
        return (trouble.condition, f"{said}; {trouble}") if trouble else (reasons.NO_READY_PODS, said)
    want = desired_route(draft.obs.model, status)
    if want is not None and dict(draft.obs.shares()).get(stable.version, 0) == 0:
        return reasons.NOT_ROUTED, f"{stable.version} has no share yet"
    return None


def _why_no_version(draft: Draft) -> tuple[str, str]:
    """What stands between this model and its first version."""
    if (away := _unreachable(draft)) is not None:
        return away
    job = _job_in_trouble(draft)
    if job is not None:
        return job.trouble.condition, f"the first training does not get on: {job.trouble}"
    training = draft.status.training
    if training is not None and training.state == "Failed":
        return reasons.NO_VERSION, f"the first training failed: {training.message}"
    return reasons.NO_VERSION, "the first version is not there yet"


def _job_in_trouble(draft: Draft) -> JobFacts | None:
    """The Job of the training in flight, if its pods do not run."""
    training = draft.status.training
    job = draft.obs.jobs.get(training.job) if training is not None and training.in_flight else None
    return job if job is not None and job.ours and job.trouble else None


def _training(draft: Draft, status: Status) -> Said:
    training = status.training
    if training is None:
        return "False", reasons.IDLE, ""
    if training.in_flight:
        job = _job_in_trouble(draft)
        said = f"Job {training.job}" if job is None else f"Job {training.job}: {job.trouble}"
        return "True", training.trigger, said
    return "False", training.reason or training.state, training.message


def _canary_healthy(status: Status) -> Said:
    if status.probation is not None:
        evidence = status.probation.evidence
        return "True", reasons.ON_PROBATION, evidence.message if evidence else ""
    canary = status.canary
    if canary is None:
        return "Unknown", reasons.NO_CANARY, ""
    if canary.evidence is None:
        return "Unknown", reasons.NO_LABELS, f"{canary.version} is {canary.stage.lower()}"
    return "True" if canary.evidence.verdict != "Error" else "Unknown", canary.evidence.reason, canary.evidence.message


def _degraded(draft: Draft, status: Status) -> Said:
    found = _unreachable(draft) or _bad_child(draft) or _bad_life(draft, status)
    return ("False", reasons.ALL_GOOD, "") if found is None else ("True", *found)


def _unreachable(draft: Draft) -> tuple[str, str] | None:
    if not draft.obs.redis_ok:
        return reasons.REDIS_DOWN, draft.obs.problem
    return None if draft.obs.store_ok else (reasons.STORE_DOWN, draft.obs.problem)


def _bad_child(draft: Draft) -> tuple[str, str] | None:
    children = draft.obs.deployments.values()
    foreign = next((d.name for d in children if not d.ours), None)
    if foreign is not None:
        return reasons.FOREIGN_CHILD, f"{foreign} belongs to another resource; waiting for it to be collected"
    failing = next((d for d in children if d.trouble), None)
    if failing is not None:
        trouble = failing.trouble
        return trouble.condition, f"{failing.name}: {trouble}, {trouble.restarts} restarts"
    job = _job_in_trouble(draft)
    return (job.trouble.condition, f"{job.name}: {job.trouble}") if job is not None else None


def _bad_life(draft: Draft, status: Status) -> tuple[str, str] | None:
    failures = status.retrained.failures
    if failures >= draft.spec.retraining.max_failures:
        return reasons.TOO_MANY_FAILURES, f"{failures} trainings failed or were rejected in a row"
    if _is_silent(draft, status):
        return reasons.EVALUATOR_SILENT, "no fresh report from the evaluator"
    return None


SILENT_AFTER = 120.0


def _is_silent(draft: Draft, status: Status) -> bool:
    """A served model whose evaluator has said nothing for two minutes; a young one is given them."""
    if status.stable is None or (draft.now - status.stable.since).total_seconds() < SILENT_AFTER:
        return False
    age = report_age(draft)
    return age is None or age > SILENT_AFTER


def _data_loss(draft: Draft) -> Said:
    report = _report(draft)
    if _has_lost_routing(draft):
        return "True", reasons.STREAM_RESET, RESET
    before = next((c for c in draft.status.conditions if c.type == "DataLoss"), None)
    if (
        before is not None
        and before.reason == reasons.STREAM_RESET
        and draft.now - before.last_transition_time < RESET_SHOWN
    ):
        return "True", reasons.STREAM_RESET, before.message
    if report is None:
        return "Unknown", reasons.NO_LABELS, "no report yet"
    loss = report.loss
    if loss.undelivered or loss.pending or loss.tail:
        return (
            "True",
            reasons.DATA_LOST,
            f"{loss.undelivered} undelivered, {loss.pending} pending, tail lost: {loss.tail}",
        )
    return "False", reasons.NONE_LOST, ""
