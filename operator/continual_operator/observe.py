"""Gather everything a decision depends on into one frozen `Observation`.

Order matters in one place: children are read before the outcome of a training, so that a Job seen as ended has written what it had
to write. A Redis or a store that does not answer is an observation too (`redis_ok`, `store_ok`), not an exception:
serving goes on, and status says what is the matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import redis
from continual_clients.redis import ensure_functions_async
from continual_contract.artifacts import CheckpointManifest, TrainingOutcome
from continual_contract.config import EvaluatorConfig
from continual_contract.errors import IntegrityError, NotFoundError, StoreUnavailableError
from continual_contract.keys import ModelKeys
from continual_contract.report import Report
from continual_contract.routing import Routing, parse_routing
from pydantic import ValidationError

from continual_operator import labels
from continual_operator.cluster import Manifest, ModelRef
from continual_operator.deps import FUNCTIONS_INTERVAL, STORE_INTERVAL, Deps
from continual_operator.observation import BudgetFacts, DeploymentFacts, JobFacts, Observation
from continual_operator.spec import Model
from continual_operator.status import Progress, Status, parse_status
from continual_operator.sweeper import enroll, roll_key
from continual_operator.troubles import Trouble, last_words, refused, trouble_of


async def observe(model: Model, deps: Deps) -> Observation:
    """One look at everything that belongs to the model."""
    status = parse_status(model.status)
    children = await deps.cluster.children(model.ref)
    now = deps.now()
    streams = await _streams(model, status, deps)
    stored = await _stored(model, status, deps)
    return Observation(
        model=model,
        status=status,
        deployments={d.name: d for d in deployment_facts(children, model.uid, now)},
        budgets={b.name: b for b in budget_facts(children, model.uid)},
        jobs={j.job: j for j in job_facts(children, model.uid, now)},
        redis_ok=not streams.problem,
        routing=streams.routing,
        foreign_uid=streams.foreign_uid,
        config=streams.config,
        report=streams.report,
        progress=streams.progress,
        store_ok=not stored.problem,
        outcome=stored.outcome,
        manifests=stored.manifests,
        damaged=stored.damaged,
        problem=streams.problem or stored.problem,
    )


# Children -------------------------------------------------------------------------------------------------------------------


def deployment_facts(children: list[Manifest], uid: str, now: datetime) -> list[DeploymentFacts]:
    """What the Deployments and their Pods tell."""
    return [_deployment(child, children, uid, now) for child in children if child.get("kind") == "Deployment"]


def _deployment(child: Manifest, children: list[Manifest], uid: str, now: datetime) -> DeploymentFacts:
    metadata, status = child["metadata"], child.get("status") or {}
    marks: Mapping[str, str] = metadata.get("labels") or {}
    own = _pods(children, {name: marks.get(name) for name in (labels.COMPONENT, labels.VERSION)})
    return DeploymentFacts(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        component=marks.get(labels.COMPONENT, ""),
        version=marks.get(labels.VERSION, ""),
        replicas=int(child.get("spec", {}).get("replicas", 1)),
        ready=int(status.get("readyReplicas") or 0),
        manifest_hash=(metadata.get("annotations") or {}).get(labels.MANIFEST_HASH, ""),
        pods=int(status.get("replicas") or 0),
        ours=_is_ours(metadata, uid),
        trouble=_trouble(own, status, now),
    )


def _trouble(pods: list[Manifest], status: Mapping[str, Any], now: datetime) -> Trouble:
    """That of the pods there are, else why there are none."""
    found = trouble_of(pods, now)
    return found or replace(refused(status), restarts=found.restarts)


def _pods(children: list[Manifest], wanted: Mapping[str, str | None]) -> list[Manifest]:
    """The pods that carry these labels."""
    return [
        child
        for child in children
        if child.get("kind") == "Pod"
        and all((child["metadata"].get("labels") or {}).get(name) == value for name, value in wanted.items())
    ]


def budget_facts(children: list[Manifest], uid: str) -> list[BudgetFacts]:
    """What there is of PodDisruptionBudgets."""
    return [_budget(child["metadata"], uid) for child in children if child.get("kind") == "PodDisruptionBudget"]


def _budget(metadata: Mapping[str, Any], uid: str) -> BudgetFacts:
    return BudgetFacts(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=(metadata.get("labels") or {}).get(labels.VERSION, ""),
        manifest_hash=(metadata.get("annotations") or {}).get(labels.MANIFEST_HASH, ""),
        ours=_is_ours(metadata, uid),
    )


def _is_ours(metadata: Mapping[str, Any], uid: str) -> bool:
    """A child of an earlier resource of the same name is not ours: it is waited for, not adopted."""
    return any(o.get("controller") and o.get("uid") == uid for o in metadata.get("ownerReferences") or ())


def job_facts(children: list[Manifest], uid: str, now: datetime) -> list[JobFacts]:
    """What the Jobs tell; a Job has failed when its condition says so, not when one of its pods did."""
    return [_job(child, children, uid, now) for child in children if child.get("kind") == "Job"]


def _job(child: Manifest, children: list[Manifest], uid: str, now: datetime) -> JobFacts:
    metadata, status = child["metadata"], child.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or () if c.get("status") == "True"}
    failure, job = conditions.get("Failed") or {}, (metadata.get("labels") or {}).get(labels.JOB, "")
    own = _pods(children, {labels.JOB: job})
    return JobFacts(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        job=job,
        active=bool(status.get("active")),
        succeeded="Complete" in conditions or bool(status.get("succeeded")),
        failed="Failed" in conditions,
        reason=": ".join(filter(None, (failure.get("reason"), failure.get("message")))),
        ours=_is_ours(metadata, uid),
        failures=int(status.get("failed") or 0),
        trouble=trouble_of(own, now) or last_words(own),
    )


# Redis ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Streams:
    """What Redis tells of one model."""

    routing: Routing | None = None
    foreign_uid: str = ""
    config: EvaluatorConfig | None = None
    report: Report | None = None
    progress: Progress | None = None
    problem: str = ""


async def _streams(model: Model, status: Status, deps: Deps) -> Streams:
    keys = ModelKeys(model.namespace, model.name)
    job = status.training.job if status.training and status.training.in_flight else ""
    try:
        await _functions(deps)
        async with deps.redis.pipeline(transaction=False) as pipe:
            for name in (keys.routing, keys.config):
                pipe.get(name)
            pipe.hget(keys.report, "json")
            pipe.hgetall(keys.progress(job or "none"))
            pipe.hexists(roll_key(deps.settings.installation), model.uid)
            routing_raw, config_raw, report_raw, progress_raw, enrolled = await pipe.execute()
        if not enrolled:  # before anything is made for it, and again where Redis forgot
            await enroll(model.uid, model.ref, deps)
        routing = parse_routing(routing_raw) if routing_raw else None
    except redis.ResponseError as error:
        return Streams(problem=f"Redis refuses: {error}")
    except (redis.RedisError, OSError) as error:
        return Streams(problem=f"Redis does not answer: {error}")
    except (ValueError, KeyError, TypeError, AttributeError):  # whatever somebody else may have written there
        return Streams(problem=f"{keys.routing} in Redis is no routing table; delete the key, and it is written anew")
    foreign = routing.uid if routing is not None and routing.uid != model.uid else ""
    return Streams(
        routing=None if foreign else routing,
        foreign_uid=foreign,
        config=_parsed(EvaluatorConfig, config_raw),
        report=_parsed(Report, report_raw),
        progress=_progress(progress_raw) if job else None,
    )


async def _functions(deps: Deps) -> None:
    """Load the function library where it is missing; asked for every ten seconds."""
    now = deps.now()
    if deps.functions_checked is None or now - deps.functions_checked >= FUNCTIONS_INTERVAL:
        await ensure_functions_async(deps.redis)
        deps.functions_checked = now


def _parsed(kind: type[Any], raw: bytes | None) -> Any:
    """A document of ours, or None: one that cannot be read says nothing, and never stops the rest."""
    if not raw:
        return None
    try:
        return kind.model_validate_json(raw)
    except ValidationError:
        return None


def _progress(raw: Mapping[bytes, bytes]) -> Progress | None:
    if not raw:
        return None
    text = {key.decode(): value.decode() for key, value in raw.items()}
    return Progress(
        phase=text.get("phase", ""), epoch=_whole(text.get("epoch")), epochs=_whole(text.get("epochs")),
        loss=text.get("loss", ""), accuracy=text.get("accuracy", ""),
    )  # fmt: skip


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


# The store ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stored:
    """What the object store tells of one model."""

    outcome: TrainingOutcome | None = None
    manifests: dict[str, CheckpointManifest] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    problem: str = ""


async def _stored(model: Model, status: Status, deps: Deps) -> Stored:
    stored = Stored(problem=await _store_problem(model.ref, deps))
    if stored.problem:
        return stored
    try:
        await asyncio.to_thread(_read_store, model, status, deps, stored)
    except (StoreUnavailableError, OSError) as error:
        stored.problem = deps.store_problem = _away(error)
    return stored


async def _store_problem(ref: ModelRef, deps: Deps) -> str:
    """Ask the store for something small: every ten seconds while it answers, at every look while it does not."""
    if deps.store_probe is not None:
        await asyncio.shield(deps.store_probe)
    elif deps.store_problem or deps.store_checked is None or deps.now() - deps.store_checked >= STORE_INTERVAL:
        deps.store_checked = deps.now()
        deps.store_probe = asyncio.create_task(_probe_store(ref, deps))
        await asyncio.shield(deps.store_probe)
    return deps.store_problem


async def _probe_store(ref: ModelRef, deps: Deps) -> None:
    try:
        await asyncio.to_thread(deps.store.exists, deps.registry(ref).layout.decision(0))
        deps.store_problem = ""
    except (StoreUnavailableError, OSError) as error:
        deps.store_problem = _away(error)
    finally:
        deps.store_probe = None


def _away(error: Exception) -> str:
    return f"the object store does not answer: {error}"


def _read_store(model: Model, status: Status, deps: Deps, stored: Stored) -> None:
    registry = deps.registry(model.ref)
    if status.training is not None and status.training.in_flight:
        stored.outcome = registry.outcome(status.training.job)
    outcome = stored.outcome.manifest if stored.outcome else None
    asked = model.annotations.get(labels.READMIT)
    stable = status.stable.digest if status.stable else None
    for digest in dict.fromkeys(d for d in (stable, outcome, asked) if d):
        _read_manifest(model.ref, digest, deps, stored)


def _read_manifest(ref: ModelRef, digest: str, deps: Deps, stored: Stored) -> None:
    known = deps.manifests.get(digest)
    try:
        stored.manifests[digest] = known or deps.registry(ref).manifest(digest)
    except (IntegrityError, NotFoundError) as error:
        stored.damaged[digest] = str(error)
        return
    deps.remember(digest, stored.manifests[digest])
