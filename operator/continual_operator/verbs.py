"""What a person asked for: one-shot verbs in annotations, and the pin in the spec.

A verb is obeyed once: its value is recorded as handled, whether it could be obeyed or not, and both are in the ledger with who asked.
A person may overrule the gate (`Forced`), never the registry: a digest in quarantine has to be readmitted first.
"""

from __future__ import annotations

from collections.abc import Callable

from continual_operator import labels, reasons
from continual_operator.draft import Draft
from continual_operator.judges import Verdict, judge_canary
from continual_operator.rollout import back_to_previous, canary_facts, drop, order
from continual_operator.status import Canary, VersionRecord, Waiting
from continual_operator.training import data_key, enqueue, new_record


def obey(draft: Draft) -> Draft:
    """Every annotation not handled yet, the cautious first. A retraining is left to the triggers, which wait for their turn."""
    for verb in labels.VERBS:
        asked = draft.obs.model.annotations.get(verb)
        handler = _HANDLERS.get(verb)
        if handler is None or asked is None or draft.status.handled.get(verb) == asked:
            continue
        draft = handler(draft, asked.partition("@")[0].strip())
        draft = draft.to(handled={**draft.status.handled, verb: asked})
    return draft


def _ignored(draft: Draft, verb: str, why: str, version: str = "") -> Draft:
    verdict = Verdict("Stay", reasons.VERB_IGNORED, f"{verb}: {why}")
    return draft.record("Ignored", verdict, version, by="person", acted=False)


def _cancel(draft: Draft, _: str) -> Draft:
    training = draft.status.training
    if training is None or not training.in_flight:
        return _ignored(draft, "cancel", "no training is in flight")
    ended = training.ended_as("Cancelled", reasons.CANCELLED, "", draft.now)
    retrained = draft.status.retrained
    attempted = (*retrained.attempted, f"{data_key(training)}:cancelled")
    draft = draft.to(
        training=ended, retrained=retrained.model_copy(update={"ended": draft.now, "attempted": attempted})
    )
    return draft.record("Cancel", Verdict("Stay", reasons.CANCELLED, training.job), by="person", job=training.job)


def _reject(draft: Draft, version: str) -> Draft:
    verdict = Verdict("Rollback", reasons.REJECTED_BY_HAND, f"{version} rejected by hand")
    canary, waiting, newer = draft.status.canary, draft.status.waiting, draft.status.next
    if canary is not None and canary.version == version:
        return drop(draft.to(canary=None), version, "Rejected", verdict, by="person")
    if newer is not None and newer.version == version:
        return drop(draft.to(next=None), version, "Rejected", verdict, by="person")
    if waiting is not None and waiting.version == version:
        return drop(draft.to(waiting=None), version, "Rejected", verdict, by="person")
    return _ignored(draft, "reject", f"{version} is neither a canary nor waiting", version)


def _roll_back(draft: Draft, _: str) -> Draft:
    """Back to what served before: the canary goes, or the warm version returns, or the one before is started again."""
    canary, probation, stable = draft.status.canary, draft.status.probation, draft.status.stable
    verdict = Verdict("Rollback", reasons.ROLLED_BACK_BY_HAND, "rolled back by hand")
    if canary is not None:
        return drop(draft.to(canary=None, next=None), canary.version, "RolledBack", verdict, by="person")
    if probation is not None:
        draft = draft.record("Rollback", verdict, probation.version, by="person", baseline=probation.previous)
        return back_to_previous(draft, probation, verdict)
    earlier = _served_before(draft)
    if earlier is None or stable is None:
        return _ignored(draft, "rollback", "no earlier version has served")
    draft = draft.record("Rollback", verdict, stable.version, by="person", baseline=earlier.version).quarantined(
        stable.digest
    )
    return _restore(draft, earlier)


def _served_before(draft: Draft) -> VersionRecord | None:
    stable = draft.status.stable
    served = [r for r in draft.status.versions if r.served and r.digest not in draft.status.quarantine]
    return next((r for r in reversed(served) if stable is not None and r.version != stable.version), None)


def _restore(draft: Draft, record: VersionRecord) -> Draft:
    waiting = Waiting(version=record.version, digest=record.digest, since=draft.now, forced=True)
    return draft.to(canary=order(draft, waiting, restore=True), rollouts=draft.status.rollouts + 1)


def _readmit(draft: Draft, digest: str) -> Draft:
    """Out of quarantine, and into the queue again: new evidence, the same number if it had one."""
    if digest not in draft.status.quarantine:
        return _ignored(draft, "readmit", f"{digest} is not in quarantine")
    draft = draft.to(quarantine=tuple(d for d in draft.status.quarantine if d != digest))
    record = next((r for r in draft.status.versions if r.digest == digest), None)
    manifest = draft.obs.manifests.get(digest)
    if record is None and manifest is not None:
        record = new_record(draft, manifest, digest, manifest.job, manifest.trigger)
        draft = draft.to(versions=(*draft.status.versions, record), last_version=draft.status.last_version + 1)
    verdict = Verdict("Stay", reasons.READMITTED, digest)
    if record is None or record.version in draft.status.live:
        return draft.record("Readmit", verdict, by="person", digest=digest)
    draft = draft.phase(record.version, "Candidate", reasons.READMITTED)
    return enqueue(draft.record("Readmit", verdict, record.version, by="person"), record)


def _approve(draft: Draft, version: str) -> Draft:
    canary = draft.status.canary
    if canary is None or canary.version != version:
        return _ignored(draft, "approve", f"{version} is not under judgement", version)
    draft = draft.to(canary=canary.model_copy(update={"approved": True}))
    return draft.record("Approve", Verdict("Stay", reasons.APPROVED, version), version, by="person")


def _promote(draft: Draft, version: str) -> Draft:
    canary, waiting, record = draft.status.canary, draft.status.waiting, draft.status.record(version)
    forced = Verdict("Promote", reasons.FORCED, f"{version} promoted by hand before the gate passed")
    if canary is not None and canary.version == version:
        return _promote_canary(draft, canary, forced)
    if waiting is not None and waiting.version == version:
        draft = draft.to(waiting=waiting.model_copy(update={"forced": True}))
        return draft.record("Force", forced, version, by="person")
    if record is None or version in draft.status.live:
        return _ignored(draft, "promote", f"{version} is not a candidate", version)
    if record.digest in draft.status.quarantine:
        return _ignored(draft, "promote", f"{version} is in quarantine: readmit {record.digest} first", version)
    draft = draft.phase(version, "Candidate", reasons.FORCED)
    return enqueue(draft.record("Force", forced, version, by="person"), record, forced=True)


def _promote_canary(draft: Draft, canary: Canary, forced: Verdict) -> Draft:
    """After the gate has passed it is an approval; before, it is force."""
    facts = canary_facts(draft, canary)
    verdict = judge_canary(facts.model_copy(update={"approved": True}))
    if canary.stage == "Judging" and canary.since is not None and verdict.outcome == "Promote":
        return _approve(draft, canary.version)
    update = {"forced": True, "stage": "Promoting"}
    draft = draft.to(canary=canary.model_copy(update=update))
    return draft.record(
        "Force", forced, canary.version, facts=facts, judge="judge_canary", by="person", baseline=canary.baseline
    )


_HANDLERS: dict[str, Callable[[Draft, str], Draft]] = {
    labels.CANCEL: _cancel,
    labels.REJECT: _reject,
    labels.ROLLBACK: _roll_back,
    labels.READMIT: _readmit,
    labels.APPROVE: _approve,
    labels.PROMOTE: _promote,
}


def hold_pin(draft: Draft) -> Draft:
    """spec.rollout.pinnedVersion: this version serves, and none replaces it until it is unpinned."""
    pinned, status = draft.spec.rollout.pinned_version, draft.status
    if pinned is None or status.stable is None:
        return draft
    draft = _clear_for_pin(draft, pinned)
    status, stable = draft.status, draft.status.stable
    verdict = Verdict("Rollback", reasons.PINNED, f"{pinned} is pinned")
    if stable is None or stable.version == pinned or (status.canary is not None and status.canary.version == pinned):
        return draft
    if status.probation is not None:
        if status.probation.previous != pinned:
            return draft.to(probation=None).phase(status.probation.previous, "Retired", reasons.PINNED)
        draft = draft.record("Rollback", verdict, status.probation.version, by="person", baseline=pinned)
        return back_to_previous(draft, status.probation, verdict)
    record = status.record(pinned)
    if record is None:
        return draft
    draft = draft.record(
        "Pin", Verdict("Promote", reasons.PINNED, f"in place of {stable.version}"), pinned, by="person"
    )
    return _restore(draft, record)


def _clear_for_pin(draft: Draft, pinned: str) -> Draft:
    """Nothing but the pinned version may be on its way to serve."""
    verdict = Verdict("Rollback", reasons.PINNED, f"{pinned} is pinned")
    canary, newer = draft.status.canary, draft.status.next
    if newer is not None:
        draft = drop(draft.to(next=None), newer.version, "Retired", verdict, by="person")
    if canary is not None and canary.version != pinned:
        return drop(draft.to(canary=None), canary.version, "Retired", verdict, by="person")
    if canary is not None and not canary.forced:
        forced = canary.model_copy(update={"forced": True, "stage": "Promoting"})
        return draft.to(canary=forced).record("Pin", Verdict("Promote", reasons.PINNED, "pinned"), pinned, by="person")
    return draft
