"""The controller's body, and a table of contents: observe, decide, apply, say when to look again."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from continual_contract.errors import ConflictError, FencedError, InvalidSpecError, StoreUnavailableError

from continual_operator import reasons
from continual_operator.apply import apply_plan
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.decide import AT_ONCE, Plan, decide, kept_digests
from continual_operator.deps import NOT_LOOKED_YET, Deps
from continual_operator.observation import Observation
from continual_operator.observe import observe
from continual_operator.spec import parse_model
from continual_operator.status import Condition, parse_status

log = logging.getLogger(__name__)

COLLECT_EVERY = timedelta(hours=1)
SOON = timedelta(milliseconds=200)
"""After something was done: to see what it did."""
YOUNG = timedelta(hours=24)
"""Nothing younger is ever garbage: a Job may be about to name it."""

__all__ = ["Deps", "reconcile"]


async def reconcile(ref: ModelRef, deps: Deps) -> timedelta | None:
    """One look at one model; returns when to look again, None when the model is gone."""
    obj = await deps.cluster.get_model(ref)
    if obj is None:
        return None
    now = deps.now()
    if deps.refusal:
        if deps.refusal != NOT_LOOKED_YET:
            await report_problem(ref, obj, deps, now, "Ready", "False", reasons.CRD_OUTDATED, deps.refusal)
        return deps.settings.busy_interval
    try:
        model = parse_model(obj)
    except InvalidSpecError as error:
        await report_problem(ref, obj, deps, now, "SpecValid", "False", reasons.SPEC_INVALID, error.message)
        return deps.settings.idle_interval
    observation = await observe(model, deps)
    plan = decide(observation, now, deps.settings)
    try:
        await apply_plan(observation, plan, deps, now)
    except FencedError:
        raise  # a newer operator leads: this one must not go on as if nothing were
    except ConflictError:
        return AT_ONCE
    await _collect_garbage(observation, deps, now)
    return _again(observation, plan, deps)


def _again(obs: Observation, plan: Plan, deps: Deps) -> timedelta:
    """At once after a decision, soon while anything moves (labels included), else later."""
    memory, labels = deps.memory(obs.model.ref), obs.report.labels.received if obs.report else 0
    labelling, memory.labels = labels != memory.labels, labels
    if plan.decided:
        return AT_ONCE
    if plan.actions:
        return SOON
    return deps.settings.busy_interval if plan.moving or labelling else deps.settings.idle_interval


async def report_problem(
    ref: ModelRef, obj: Manifest, deps: Deps, now: datetime, kind: str, state: str, reason: str, message: str
) -> None:
    """Say in a condition why this model cannot be reconciled; everything else in its status stays as it is."""
    status, metadata = parse_status(obj.get("status")), obj.get("metadata") or {}
    generation = int(metadata.get("generation") or 0)
    said = {kind: (state, reason, message)}
    if kind == "SpecValid":
        said["Ready"] = ("False", reason, message)
    others = tuple(c for c in status.conditions if c.type not in said)
    old = {c.type: c for c in status.conditions}
    told = tuple(
        Condition.model_validate(
            {
                "type": name, "status": value, "reason": why, "message": text[:1000], "observedGeneration": generation,
                "lastTransitionTime": old[name].last_transition_time if name in old and old[name].status == value else now,
            }
        )
        for name, (value, why, text) in said.items()
    )  # fmt: skip
    after = status.replaced(conditions=(*told, *others), observed_generation=generation)
    if set(after.conditions) == set(status.conditions) and after.observed_generation == status.observed_generation:
        return
    log.warning("model cannot be reconciled", extra={"model": str(ref), "reason": reason, "detail": message})
    await deps.cluster.write_status(ref, after.to_dict(), str(metadata.get("resourceVersion") or ""))
    if kind != "Degraded":  # that one says every failed attempt, in words that differ
        await deps.cluster.record_event(ref, "Warning", reason, message[:1000])


async def _collect_garbage(obs: Observation, deps: Deps, now: datetime) -> None:
    """Once an hour: what retention, the live versions and the Job at work do not need goes, when it is old enough."""
    memory = deps.memory(obs.model.ref)
    if memory.collected is None:
        memory.collected = now
    if now - memory.collected < COLLECT_EVERY or not obs.store_ok:
        return
    memory.collected = now
    registry, keep = deps.registry(obs.model.ref), kept_digests(obs)
    try:
        removed = await asyncio.to_thread(lambda: registry.collect(registry.garbage(keep, now, YOUNG)))
    except StoreUnavailableError as error:
        log.warning("garbage collection failed", extra={"model": str(obs.model.ref), "error": str(error)})
        return
    if removed:
        log.info("garbage collected", extra={"model": str(obs.model.ref), "objects": removed})
