"""The life of a version after the offline gate: shadow, canary, probation, stable, or back.

    Waiting → Starting (pods) → Judging (weight 0 = shadow, then the declared shares) → Promoting (full size) → probation → stable

Each function takes a draft and returns one; what it decides is acted on in the next pass, when it is the recorded truth. Whatever
speaks against a version is looked at first and always; whatever is unknown moves nothing.
"""

from __future__ import annotations

from datetime import timedelta

from continual_contract.report import PairEvidence, VersionScores
from continual_contract.routing import BASIS_POINTS

from continual_operator import judges, reasons
from continual_operator.converge import replicas_of
from continual_operator.draft import By, Draft, rollout_salt
from continual_operator.judges import CanaryFacts, DeadlineFacts, ProbationFacts, StepFacts, Verdict
from continual_operator.status import AlphaBudget, Canary, Phase, ProbationStatus, Stable, VersionRecord, Waiting

START_LIMIT = timedelta(minutes=10)
"""How long a new version's pods may take to become Ready."""
CRASHES = 3
"""Restarts after which pods in trouble are not waited for."""


def advance(draft: Draft) -> Draft:
    """Everything that may happen to the versions in flight, in the order in which it matters."""
    draft = _join(draft)
    if draft.status.probation is not None:
        return _probation(draft)
    draft = _start_waiting(draft)
    draft = _start_superseder(draft)
    canary = draft.status.canary
    if canary is None:
        return draft
    canary = _watch_pods(draft, canary)
    draft = draft.to(canary=canary)
    if canary.stage == "Starting":
        return _starting(draft, canary)
    if canary.stage == "Judging":
        return _judging(draft, canary)
    return _promoting(draft, canary)


# What the routing tells -----------------------------------------------------------------------------------------------------


def _join(draft: Draft) -> Draft:
    """Record from which request on a version is compared or watched: the `after` of the epoch that routed it."""
    draft = _join_stable(draft)
    obs, canary, probation = draft.obs, draft.status.canary, draft.status.probation
    if canary is not None and canary.stage == "Judging" and canary.since is None:
        after = obs.joined_after(canary.version) if _routed(draft, canary.version) else None
        if after is not None:
            draft = _enter_shadow(draft, canary, after)
    epoch, promoted = obs.last_epoch, probation and ((probation.version, BASIS_POINTS), (probation.previous, 0))
    if probation is not None and probation.since is None and epoch is not None and obs.shares() == promoted:
        draft = draft.to(probation=probation.model_copy(update={"since": epoch.after, "started": draft.now}))
    return draft


def _routed(draft: Draft, version: str) -> bool:
    return version in dict(draft.obs.shares())


def _join_stable(draft: Draft) -> Draft:
    stable, epoch = draft.status.stable, draft.obs.last_epoch
    if stable is None or stable.drift_since is not None or epoch is None:
        return draft
    if dict(draft.obs.shares()).get(stable.version) != BASIS_POINTS:
        return draft
    return draft.to(stable=stable.model_copy(update={"drift_since": epoch.after}))


def _enter_shadow(draft: Draft, canary: Canary, after: str) -> Draft:
    phase: Phase = "Canary" if canary.weight else "Shadow"
    message = f"{phase.lower()} since {after}, weight {canary.weight}, alpha {canary.alpha:.4f}"
    joined = canary.model_copy(update={"since": after, "started": draft.now, "step_since": draft.now})
    verdict = Verdict("Inconclusive", reasons.SHADOW_STARTED, message)
    draft = draft.to(canary=joined).phase(canary.version, phase, reasons.SHADOW_STARTED)
    return draft.record(phase, verdict, canary.version, baseline=canary.baseline, alpha=canary.alpha)


# Starting -------------------------------------------------------------------------------------------------------------------


def first_version(draft: Draft, record: VersionRecord) -> Draft:
    """v1 serves as soon as its pods are Ready: there is nothing to compare it with."""
    stable = Stable(
        version=record.version, digest=record.digest, weight=100, since=draft.now,
        replicas=draft.spec.serving.autoscaling.min_replicas if draft.spec.serving.autoscaling else draft.spec.serving.replicas,
    )  # fmt: skip
    draft = draft.to(stable=stable, trained_through=record.trained_through).phase(record.version, "Stable")
    draft = _served(draft, record.version)
    return draft.record("Promote", Verdict("Promote", reasons.FIRST_VERSION, "the first version"), record.version)


def _served(draft: Draft, version: str) -> Draft:
    marked = tuple(r.model_copy(update={"served": True}) if r.version == version else r for r in draft.status.versions)
    return draft.to(versions=marked)


def _may_start(draft: Draft) -> bool:
    return draft.status.stable is not None and draft.spec.rollout.pinned_version is None


def _observing(draft: Draft) -> bool:
    """Mode Observe: a candidate answers in the dark, its verdict is recorded, and no share ever moves."""
    return draft.spec.rollout.mode == "Observe"


def _start_waiting(draft: Draft) -> Draft:
    waiting = draft.status.waiting
    if waiting is None or not _may_start(draft):
        return draft
    draft = _make_room(draft, waiting)
    if draft.status.canary is not None:
        return draft
    return draft.to(canary=order(draft, waiting), rollouts=draft.status.rollouts + 1, waiting=None)


def _make_room(draft: Draft, waiting: Waiting) -> Draft:
    """Observed to its end, a candidate leaves the dark to the next one: nobody will act on its verdict any more."""
    canary = draft.status.canary
    if canary is None or not _observing(draft) or not canary.observed_verdict:
        return draft
    verdict = Verdict("Inconclusive", reasons.SUPERSEDED, f"by {waiting.version}")
    draft = draft.to(canary=None).phase(canary.version, "Retired", reasons.SUPERSEDED, verdict.message)
    return draft.record("Supersede", verdict, canary.version)


def _start_superseder(draft: Draft) -> Draft:
    """supersede: Replace — the newer candidate's pods start beside the canary; once Ready it takes the place in one routing change."""
    status, waiting = draft.status, draft.status.waiting
    if draft.spec.rollout.supersede != "Replace" or status.canary is None or status.canary.stage == "Promoting":
        return draft
    if waiting is not None and _may_start(draft):
        draft = draft.to(next=order(draft, waiting), rollouts=status.rollouts + 1, waiting=None)
    if draft.status.next is None:
        return draft
    new = _watch_pods(draft, draft.status.next)
    draft = draft.to(next=new)
    if _is_broken(draft, new):
        return drop(draft.to(next=None), new.version, "Failed", _broken_verdict(draft, new))
    if draft.obs.ready(new.version) < _wanted(draft, new.version):
        return draft
    old = status.canary
    draft = draft.phase(old.version, "Retired", reasons.SUPERSEDED, f"by {new.version}")
    draft = draft.record("Supersede", Verdict("Inconclusive", reasons.SUPERSEDED, f"by {new.version}"), old.version)
    return _begin(draft.to(canary=new, next=None), new)


def order(draft: Draft, waiting: Waiting, *, restore: bool = False) -> Canary:
    """A canary whose pods are to be started. Its evidence has a name of its own: nothing is inherited."""
    number, stable = draft.status.rollouts + 1, draft.status.stable
    assert stable is not None, "a canary needs a stable version to be compared with"
    direct = waiting.direct and not _observing(draft)
    straight = direct or waiting.forced or restore
    return Canary(
        version=waiting.version,
        digest=waiting.digest,
        stage="Promoting" if straight else "Starting",
        baseline=stable.version,
        evidence_id=f"{waiting.version}-canary-{number}",
        alpha=draft.spec.rollout.gate.alpha,
        salt=rollout_salt(draft.obs.model.uid, number),
        started=draft.now,
        step_since=draft.now,
        unready_since=draft.now,
        forced=waiting.forced,
        restore=restore,
    )


def _starting(draft: Draft, canary: Canary) -> Draft:
    if _is_broken(draft, canary):
        return drop(draft.to(canary=None), canary.version, "Failed", _broken_verdict(draft, canary))
    if draft.obs.ready(canary.version) < _wanted(draft, canary.version):
        return draft
    return _begin(draft, canary)


def _wanted(draft: Draft, version: str) -> int:
    return replicas_of(draft.obs.model, draft.status).get(version, 1)


def _begin(draft: Draft, canary: Canary) -> Draft:
    """Into the shadow: from here on it counts in the alpha budget, whatever becomes of it."""
    budget = _budget(draft)
    started = budget.started + 1
    alpha = judges.alpha_of(draft.spec.rollout.gate.alpha, started, budget.promotions)
    weight = 0 if _observing(draft) else draft.spec.rollout.steps[0].weight
    judging = canary.model_copy(
        update={
            "stage": "Judging",
            "alpha": alpha,
            "weight": weight,
            "step": 0,
            "started": draft.now,
            "step_since": draft.now,
        }
    )
    return draft.to(canary=judging, alpha=budget.model_copy(update={"started": started}))


def _budget(draft: Draft) -> AlphaBudget:
    budget = draft.status.alpha
    if budget is None or draft.now - budget.period_start >= judges.ALPHA_PERIOD:
        return AlphaBudget(period_start=draft.now)
    return budget


def _is_broken(draft: Draft, canary: Canary) -> bool:
    """Its pods keep dying, or do not come up; but what stable's pods suffer too is not its fault."""
    if _shares_fate(draft, canary):
        return False
    child = draft.obs.deployment(canary.version)
    restarts = child.trouble.restarts - canary.excused_restarts if child is not None and child.trouble else 0
    return restarts >= CRASHES or (canary.unready_since is not None and draft.now - canary.unready_since > START_LIMIT)


def _shares_fate(draft: Draft, canary: Canary) -> bool:
    """Stable's pods do not run, for the same reason: a secret, a quota, a Redis with foreign keys."""
    ours, stable = draft.obs.deployment(canary.version), draft.obs.deployment(canary.baseline)
    if ours is None or stable is None or ours.ready or stable.ready:
        return False
    return ours.trouble.reason == stable.trouble.reason


def _watch_pods(draft: Draft, canary: Canary) -> Canary:
    """Keep since when it has no Ready pod: one restart late in a long gate is no reason to lose the candidate."""
    if draft.obs.ready(canary.version) > 0:
        return canary if canary.unready_since is None else canary.model_copy(update={"unready_since": None})
    if _shares_fate(draft, canary):
        return _excused(draft, canary)
    return canary if canary.unready_since is not None else canary.model_copy(update={"unready_since": draft.now})


def _excused(draft: Draft, canary: Canary) -> Canary:
    """Its time to come up begins when stable's pods are up again; written down seldom."""
    child, since = draft.obs.deployment(canary.version), canary.unready_since
    restarts = child.trouble.restarts if child is not None else 0
    fresh = since is not None and draft.now - since < START_LIMIT / 2
    if fresh and restarts <= canary.excused_restarts:
        return canary
    return canary.model_copy(update={"unready_since": draft.now, "excused_restarts": restarts})


def _broken_verdict(draft: Draft, canary: Canary) -> Verdict:
    child = draft.obs.deployment(canary.version)
    if child is not None and child.trouble:
        return Verdict("Rollback", reasons.CRASHED, f"{child.trouble}, {child.trouble.restarts} restarts")
    return Verdict("Rollback", reasons.NOT_READY, f"no Ready pod for {START_LIMIT}")


# Judging --------------------------------------------------------------------------------------------------------------------


def _judging(draft: Draft, canary: Canary) -> Draft:
    if _is_broken(draft, canary):
        return _obey(draft, canary, _broken_verdict(draft, canary), None)
    if canary.since is None:
        return draft
    facts = canary_facts(draft, canary)
    verdict = judges.judge_canary(facts)
    if verdict.outcome == "Rollback":
        return _obey(draft, canary, verdict, facts)
    ready = _through_steps(draft, canary)
    if ready and verdict.outcome == "Promote":
        return _obey(draft, canary, verdict, facts)
    ended = judges.judge_deadline(deadline_facts(draft, canary, verdict))
    if ended.decided and ended.reason == reasons.DEADLINE_PASSED:
        return _obey(draft, canary, ended, deadline_facts(draft, canary, verdict))
    return _step(_looked(draft, facts) if ready else draft, verdict)


def _through_steps(draft: Draft, canary: Canary) -> bool:
    """Whether the last step has been held; in mode Observe, where no share rises, whether all of them could have been."""
    steps = draft.spec.rollout.steps
    if _observing(draft):
        return draft.now - canary.started >= sum((step.hold for step in steps), timedelta(0))
    return canary.step >= len(steps) - 1 and _held(draft, canary)


def _held(draft: Draft, canary: Canary) -> bool:
    steps = draft.spec.rollout.steps
    return draft.now - canary.step_since >= steps[min(canary.step, len(steps) - 1)].hold


def _looked(draft: Draft, facts: CanaryFacts) -> Draft:
    """With cycles the verdict falls once per whole cycle: this one has been looked at."""
    canary, cycles = draft.status.canary, judges.whole_cycles(facts.elapsed, facts.gate.cycle)
    if canary is None or cycles <= canary.cycles:
        return draft
    return draft.to(canary=canary.model_copy(update={"cycles": cycles}))


def _step(draft: Draft, verdict: Verdict) -> Draft:
    canary, steps = draft.status.canary, draft.spec.rollout.steps
    if canary is None or _observing(draft):
        return draft
    pair = _pair(draft, canary.evidence_id)
    facts = StepFacts(
        steps=steps, step=canary.step, in_step=draft.now - canary.step_since, gate=draft.spec.rollout.gate,
        verdict=verdict.outcome, reason=verdict.reason, pairs=pair.pairs if pair else 0,
        mean_gain=pair.mean_gain if pair else None,
    )  # fmt: skip
    said = judges.next_step(facts)
    if said.outcome != "Advance":
        return draft
    weight = steps[canary.step + 1].weight
    risen = canary.model_copy(update={"step": canary.step + 1, "weight": weight, "step_since": draft.now})
    draft = draft.to(canary=risen).phase(canary.version, "Canary", reasons.STEP_PASSED, said.message)
    return draft.record("Step", said, canary.version, facts=facts, judge="next_step", baseline=canary.baseline)


def _obey(draft: Draft, canary: Canary, verdict: Verdict, facts: judges.Facts | None) -> Draft:
    """Act on a verdict; in mode Observe record the first one, which is what would have been done, and change nothing."""
    judge = {CanaryFacts: "judge_canary", DeadlineFacts: "judge_deadline"}.get(type(facts), "")  # type: ignore[arg-type]  # None has no judge
    said = f"{verdict.outcome}/{verdict.reason}"
    observing = _observing(draft)
    if observing and canary.observed_verdict:
        return draft
    draft = draft.record(
        verdict.outcome, verdict, canary.version, facts=facts, judge=judge, acted=not observing,
        baseline=canary.baseline, alpha=canary.alpha,
    )  # fmt: skip
    if observing:
        return draft.to(canary=canary.model_copy(update={"observed_verdict": said}))
    if verdict.outcome == "Promote":
        return draft.to(canary=canary.model_copy(update={"stage": "Promoting"}))
    failed = verdict.reason in {reasons.CRASHED, reasons.NOT_READY}
    return _ended(draft.to(canary=None), canary.version, "Failed" if failed else "RolledBack", verdict)


def canary_facts(draft: Draft, canary: Canary) -> CanaryFacts:
    """What is known of the canary now, as its judge wants it."""
    report = draft.obs.report
    scores = report.versions if report else {}
    ours, theirs = scores.get(canary.version) or VersionScores(version=canary.version), scores.get(canary.baseline)
    lags = report.lag_seconds if report else {}
    return CanaryFacts(
        gate=draft.spec.rollout.gate,
        alpha=canary.alpha,
        evidence=_pair(draft, canary.evidence_id),
        report_age_seconds=report_age(draft),
        elapsed=draft.now - canary.started,
        cycles_seen=canary.cycles,
        approved=canary.approved,
        lag_seconds=lags.get(canary.version),
        stable_lag_seconds=lags.get(canary.baseline),
        answers=ours.answers,
        error_rate=ours.error_rate,
        stable_error_rate=theirs.error_rate if theirs else 0.0,
        p95_us=ours.worker_us_p95,
        stable_answers=theirs.answers if theirs else 0,
        stable_p95_us=theirs.worker_us_p95 if theirs else None,
    )


def deadline_facts(draft: Draft, canary: Canary, verdict: Verdict) -> DeadlineFacts:
    rollout = draft.spec.rollout
    return DeadlineFacts(
        verdict=verdict.outcome, reason=verdict.reason, message=verdict.message, elapsed=draft.now - canary.started,
        deadline=rollout.deadline, on_inconclusive=rollout.on_inconclusive,
        last_step=_through_steps(draft, canary),
        approval_missing=rollout.gate.require_approval and not canary.approved,
    )  # fmt: skip


def report_age(draft: Draft) -> float | None:
    """Seconds since the evaluator spoke of this resource; None when it has not."""
    report = draft.obs.report
    if report is None or report.uid != draft.obs.model.uid:
        return None
    return max(0.0, draft.now.timestamp() - report.time_ms / 1000)


def _pair(draft: Draft, evidence_id: str) -> PairEvidence | None:
    """The evidence of exactly this judgement: that of another candidate, or of an earlier attempt, is none."""
    report = draft.obs.report
    pair = report.pair if report and report.uid == draft.obs.model.uid else None
    return pair if pair is not None and pair.evidence_id == evidence_id else None


# Promoting ------------------------------------------------------------------------------------------------------------------


def _promoting(draft: Draft, canary: Canary) -> Draft:
    if _is_broken(draft, canary):
        return _obey(draft, canary, _broken_verdict(draft, canary), None)
    if canary.since is not None and not canary.forced:
        facts = canary_facts(draft, canary)
        verdict = judges.judge_canary(facts)
        if verdict.outcome == "Rollback":
            return _obey(draft, canary, verdict, facts)
    if draft.obs.ready(canary.version) < _wanted(draft, canary.version):
        return draft
    return _restored(draft, canary) if canary.restore else _promoted(draft, canary)


def _promoted(draft: Draft, canary: Canary) -> Draft:
    """The new version takes the whole stream in one routing change; the old one stays warm and answers in the dark."""
    old, number = draft.status.stable, draft.status.rollouts + 1
    assert old is not None, "promotion replaces a stable version"
    probation = ProbationStatus(
        version=canary.version, digest=canary.digest, weight=100, previous=old.version, previous_digest=old.digest,
        evidence_id=f"{canary.version}-probation-{number}", salt=canary.salt, started=draft.now,
    )  # fmt: skip
    draft = _become_stable(draft, canary).to(probation=probation, rollouts=number)
    draft = draft.phase(canary.version, "Probation").phase(old.version, "Shadow", reasons.ON_PROBATION)
    by_gate = not canary.forced and canary.since is not None
    if by_gate:
        budget = _budget(draft)
        draft = draft.to(alpha=budget.model_copy(update={"promotions": budget.promotions + 1}))
    reason = reasons.FORCED if canary.forced else reasons.ACCURACY_HELD if by_gate else reasons.INSTANT_CORRECTION
    by: By = "person" if canary.forced else "operator"
    return draft.record(
        "Probation",
        Verdict("Promote", reason, f"{old.version} stays warm"),
        canary.version,
        by=by,
        baseline=old.version,
    )


def _become_stable(draft: Draft, canary: Canary) -> Draft:
    old, record = draft.status.stable, draft.status.record(canary.version)
    assert old is not None, "only a served model has a canary"
    stable = Stable(
        version=canary.version, digest=canary.digest, weight=100, since=draft.now, replicas=max(1, old.replicas)
    )
    retrained = draft.status.retrained.model_copy(update={"failures": 0})
    through = record.trained_through if record else draft.status.trained_through
    waiting = draft.status.waiting
    if waiting is not None and waiting.version == canary.version:
        waiting = None  # pinned while it waited: left in the queue it would start again after its own rollback
    draft = draft.to(stable=stable, canary=None, waiting=waiting, trained_through=through, retrained=retrained)
    return _served(draft, canary.version)


def _restored(draft: Draft, canary: Canary) -> Draft:
    """An earlier version is back by hand: no probation, the one it replaced goes."""
    old = draft.status.stable
    assert old is not None, "only a served model can be rolled back"
    draft = _become_stable(draft, canary).phase(canary.version, "Stable", reasons.ROLLED_BACK_BY_HAND)
    draft = draft.phase(old.version, "RolledBack", reasons.ROLLED_BACK_BY_HAND, f"{canary.version} is back")
    return draft.record(
        "Restore",
        Verdict("Promote", reasons.ROLLED_BACK_BY_HAND, f"in place of {old.version}"),
        canary.version,
        by="person",
    )


# Probation ------------------------------------------------------------------------------------------------------------------


def _probation(draft: Draft) -> Draft:
    probation = draft.status.probation
    if probation is None or probation.since is None or draft.spec.rollout.pinned_version == probation.version:
        return draft
    facts = ProbationFacts(
        probation=draft.spec.rollout.probation, evidence=_pair(draft, probation.evidence_id),
        report_age_seconds=report_age(draft), elapsed=draft.now - probation.started,
    )  # fmt: skip
    verdict = judges.judge_probation(facts)
    if verdict.outcome not in {"Pass", "Rollback"}:
        return draft
    said = f"{verdict.outcome}/{verdict.reason}"
    observing = _observing(draft)
    if observing and probation.observed_verdict == said:
        return draft
    draft = draft.record(
        verdict.outcome, verdict, probation.version, facts=facts, judge="judge_probation", acted=not observing,
        baseline=probation.previous,
    )  # fmt: skip
    if observing:
        return draft.to(probation=probation.model_copy(update={"observed_verdict": said}))
    return (
        _passed(draft, probation, verdict) if verdict.outcome == "Pass" else back_to_previous(draft, probation, verdict)
    )


def _passed(draft: Draft, probation: ProbationStatus, verdict: Verdict) -> Draft:
    draft = draft.phase(probation.version, "Stable", verdict.reason, verdict.message)
    return draft.to(probation=None).phase(probation.previous, "Retired", reasons.PROBATION_PASSED)


def back_to_previous(draft: Draft, probation: ProbationStatus, verdict: Verdict) -> Draft:
    """The warm version takes the stream back."""
    bad, record = draft.status.stable, draft.status.record(probation.previous)
    assert bad is not None, "probation is of the stable version"
    stable = Stable(
        version=probation.previous, digest=probation.previous_digest, weight=100, since=draft.now, replicas=bad.replicas
    )
    through = record.trained_through if record else 0
    draft = draft.to(stable=stable, probation=None, trained_through=through).phase(probation.previous, "Stable")
    return _ended(draft, probation.version, "RolledBack", verdict)


# Ends -----------------------------------------------------------------------------------------------------------------------


def drop(draft: Draft, version: str, phase: Phase, verdict: Verdict, by: By = "operator") -> Draft:
    """Record the end of a version that does not serve, and end it."""
    return _ended(draft.record("Rollback", verdict, version, by=by), version, phase, verdict)


def _ended(draft: Draft, version: str, phase: Phase, verdict: Verdict) -> Draft:
    """Out of the rollout; what was convicted never comes back by itself, and the next training waits longer."""
    draft = draft.phase(version, phase, verdict.reason, verdict.message)
    record = draft.status.record(version)
    if record is not None and phase in {"RolledBack", "Rejected"} and verdict.reason != reasons.PINNED:
        draft = draft.quarantined(record.digest)
    retrained = draft.status.retrained
    return draft.to(retrained=retrained.model_copy(update={"failures": retrained.failures + 1}))
