"""Carry a plan out: children, routing, orders, store, events, and last the status, once.

Every step may be repeated: a Deployment is applied whole, a Job exists once, `route` and `configure` are fenced and compare before they set,
deletes name a uid, blobs are content-addressed. So a crash between any two steps costs nothing but the next pass. A step that
fails does not keep the decision from being recorded: what was decided does not depend on it, and the next pass tries it again.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any

import redis
from continual_clients.registry import Registry, blobs_of
from continual_contract.artifacts import CheckpointManifest, StoreLayout, TrainingFailure, TrainingOutcome
from continual_contract.errors import (
    ContinualError,
    IntegrityError,
    NotFoundError,
    RedisUnavailableError,
)
from continual_contract.functions import FunctionCall, configure_call, error_from_reply, route_call, wipe_call
from continual_contract.ids import canonical_json, sha256_digest
from continual_contract.keys import ModelKeys
from pydantic import ValidationError

from continual_operator.converge import (
    Action,
    ApplyChild,
    Configure,
    CreateJob,
    DeleteChild,
    ImportCheckpoint,
    Route,
    Wipe,
    WriteLedger,
)
from continual_operator.decide import Plan
from continual_operator.deps import Deps
from continual_operator.ledger import LedgerEntry
from continual_operator.observation import Observation
from continual_operator.status import Status, material

log = logging.getLogger(__name__)

WARNINGS = {"Rollback", "Reject", "TrainingFailed", "DriftAlarm", "Ignored"}
MAX_IMPORT_BYTES = 4 << 20


async def apply_plan(obs: Observation, plan: Plan, deps: Deps, now: datetime) -> None:
    """Do what the plan says.

    Raises:
        ConflictError: the resource changed meanwhile; look again.
        ContinualError: the first step that failed, after all others were tried and the decision was recorded.
    """
    failures: list[ContinualError] = []
    written: set[int] = set()
    for action in plan.actions:
        try:
            await _act(action, obs, deps)
        except (ContinualError, redis.RedisError, OSError) as error:
            failures.append(_as_ours(error))
            log.warning(
                "step failed", extra={"model": str(obs.model.ref), "step": type(action).__name__, "error": str(error)}
            )
            continue
        if isinstance(action, WriteLedger):
            written.add(action.entry.sequence)
    for data in plan.data_lists:
        await asyncio.to_thread(deps.registry(obs.model.ref).put_data_list, data)
    await _record(obs, plan, written, deps, now)
    if failures:
        raise failures[0]


def _as_ours(error: ContinualError | redis.RedisError | OSError) -> ContinualError:
    if isinstance(error, ContinualError):
        return error
    return RedisUnavailableError(f"did not answer: {error}", field="redis", remedy="it is tried again")


async def _act(action: Action, obs: Observation, deps: Deps) -> None:
    """One step. What a cluster can do goes to the cluster, what Redis can to Redis, the rest to the store."""
    model, cluster = obs.model, deps.cluster
    if isinstance(action, ApplyChild):
        await cluster.apply(action.manifest)
    elif isinstance(action, CreateJob):
        await cluster.create(action.manifest)
    elif isinstance(action, DeleteChild):
        await cluster.delete(action.kind, model.namespace, action.name, action.uid)
    elif isinstance(action, WriteLedger):
        await asyncio.to_thread(_write_entry, deps.registry(model.ref), action.entry)
    elif isinstance(action, ImportCheckpoint):
        await asyncio.to_thread(import_checkpoint, deps.registry(model.ref), action)
    else:
        await _call(_function_call(action, obs, deps), deps)


def _function_call(action: Route | Wipe | Configure, obs: Observation, deps: Deps) -> FunctionCall:
    model, token = obs.model, deps.settings.token
    keys = ModelKeys(model.namespace, model.name)
    if isinstance(action, Wipe):
        return wipe_call(keys, model.uid, token)
    if isinstance(action, Configure):
        document = canonical_json(action.config.model_dump(mode="json"))
        return configure_call(keys, model.uid, token, document)
    return route_call(
        keys, action.gen, token, model.uid, action.shares, action.shadow, action.shadow_bp, action.salt,
        dict(action.heirs), action.min_gen,
    )  # fmt: skip


async def _call(call: FunctionCall, deps: Deps) -> Any:
    try:
        return await deps.redis.execute_command(*call.command())  # type: ignore[no-untyped-call]  # unannotated in redis-py
    except redis.ResponseError as error:
        deps.functions_checked = None
        raise error_from_reply(str(error)) from error


def _write_entry(registry: Registry, entry: LedgerEntry) -> None:
    registry.put_json(registry.layout.decision(entry.sequence), entry)


# The status -----------------------------------------------------------------------------------------------------------------


async def _record(obs: Observation, plan: Plan, written: set[int], deps: Deps, now: datetime) -> None:
    """Write the status if something was decided, or if its numbers changed and were not written for a while; then tell the owner."""
    left = tuple(entry for entry in plan.status.outbox if entry.sequence not in written)
    status = plan.status.replaced(outbox=left)
    memory = deps.memory(obs.model.ref)
    if not _is_worth_writing(obs.status, status, memory.written, deps, now):
        return
    await deps.cluster.write_status(obs.model.ref, status.to_dict(), obs.model.resource_version)
    memory.written = now
    known = obs.status.ledger_sequence
    for entry in left:
        if entry.sequence > known:
            await _tell(entry, obs, deps)


def _is_worth_writing(before: Status, after: Status, written: datetime | None, deps: Deps, now: datetime) -> bool:
    if before == after:
        return False
    quiet = written is not None and now - written < deps.settings.status_interval
    return not quiet or material(before) != material(after)


async def _tell(entry: LedgerEntry, obs: Observation, deps: Deps) -> None:
    """An Event for the owner, a line for the log, one more on the counter."""
    deps.metrics.decided(entry.action, entry.reason)
    kind = "Warning" if entry.action in WARNINGS else "Normal"
    said = f"{entry.version or entry.job}: {entry.message}" if entry.version or entry.job else entry.message
    log.info(
        "decided",
        extra={
            "model": str(obs.model.ref), "action": entry.action, "reason": entry.reason, "version": entry.version,
            "detail": entry.message, "sequence": entry.sequence,
        },
    )  # fmt: skip
    await deps.cluster.record_event(obs.model.ref, kind, entry.reason, f"{entry.action} {said}"[:1000])


# Import ---------------------------------------------------------------------------------------------------------------------


def import_checkpoint(registry: Registry, action: ImportCheckpoint) -> None:
    """Copy a declared checkpoint, verified, under this model; its end is an outcome like any training's."""
    try:
        manifest = _foreign_manifest(registry, action)
        source = Registry(registry.store, StoreLayout(manifest.namespace, manifest.model))
        for blob in blobs_of(manifest):
            registry.put_blob(source.get_blob(blob))
        if manifest.data is not None:
            registry.put_data_list(source.data_list(manifest.data))
        if manifest.bootstrap_holdout is not None:
            registry.store.put(
                registry.layout.holdout(manifest.bootstrap_holdout),
                registry.store.get(source.layout.holdout(manifest.bootstrap_holdout)),
            )
        digest = registry.publish(manifest)
        registry.put_outcome(TrainingOutcome(job=action.job, manifest=digest, scores=manifest.scores))
    except (IntegrityError, NotFoundError) as error:
        failure = TrainingFailure(reason=error.reason, message=str(error))
        registry.put_outcome(TrainingOutcome(job=action.job, failure=failure))


def _foreign_manifest(registry: Registry, action: ImportCheckpoint) -> CheckpointManifest:
    data = registry.store.get(action.object_key, limit=MAX_IMPORT_BYTES)
    if sha256_digest(data) != action.digest:
        raise IntegrityError(
            "is not the declared checkpoint", field="spec.bootstrap.checkpoint.digest", value=sha256_digest(data),
            remedy="correct the digest or the key",
        )  # fmt: skip
    try:
        return CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"is not a checkpoint manifest: {error.error_count()} errors", field="spec.bootstrap.checkpoint.objectKey",
            value=action.object_key, remedy="name the .json under checkpoints/",
        ) from error  # fmt: skip
