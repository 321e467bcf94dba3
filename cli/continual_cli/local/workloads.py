"""What Deployments and Jobs want of their pods: pure plans, in the manner of the controller manager.

A Deployment is rolled with one pod more than wanted and none less ready; or, with `Recreate`, the old pods go first. A Job runs one
pod until one succeeds, its failures exceed the limit or its time is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from continual_cli.local.manifests import DeploymentSpec, JobSpec
from continual_cli.local.pods import Pod, backoff_seconds
from continual_cli.local.state import timestamp


@dataclass(frozen=True, slots=True)
class PodPlan:
    """How many pods to create, and which to delete."""

    create: int = 0
    delete: tuple[str, ...] = ()


def plan_deployment(spec: DeploymentSpec, pods: Sequence[Pod]) -> PodPlan:
    """Next step of a Deployment towards its template and number."""
    live = [pod for pod in pods if not pod.deleting]
    new = sorted((p for p in live if p.digest == spec.template.digest), key=_keep_first)
    old = sorted((p for p in live if p.digest != spec.template.digest), key=_keep_first)
    missing = max(0, spec.replicas - len(new))
    surplus = tuple(pod.name for pod in new[spec.replicas :])
    if not old:
        waits = spec.recreate and any(p.deleting and p.digest != spec.template.digest for p in pods)
        return PodPlan(0 if waits else missing, surplus)
    if spec.recreate:
        return PodPlan(0, tuple(pod.name for pod in old))
    room = max(0, spec.replicas + 1 - len(live))
    unready = [pod.name for pod in old if not pod.ready]
    spare = max(0, sum(pod.ready for pod in live) - spec.replicas)
    retired = [pod.name for pod in reversed(old) if pod.ready][:spare]
    return PodPlan(min(missing, room), (*surplus, *unready, *retired))


def _keep_first(pod: Pod) -> tuple[bool, float, str]:
    """Ready and old pods are kept before others."""
    return (not pod.ready, pod.created, pod.name)


def deployment_status(spec: DeploymentSpec, generation: int, pods: Sequence[Pod]) -> dict[str, Any]:
    live = [pod for pod in pods if not pod.deleting]
    ready = sum(pod.ready for pod in live)
    available = ready >= spec.replicas
    return {
        "observedGeneration": generation,
        "replicas": len(live),
        "updatedReplicas": sum(pod.digest == spec.template.digest for pod in live),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, spec.replicas - ready),
        "conditions": [
            {
                "type": "Available",
                "status": "True" if available else "False",
                "reason": "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            }
        ],
    }


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is remembered of a Job beside its manifest."""

    started: float
    failed: int = 0
    finished: float | None = None
    outcome: str = ""
    """Complete or Failed."""
    reason: str = ""
    message: str = ""
    counted: tuple[str, ...] = ()
    """uids of pods already in `failed`: counted once, also after the pod object is gone."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    record: JobRecord
    create: int = 0
    delete: tuple[str, ...] = ()
    expired: bool = False
    """Its time to live after the end is over."""


def plan_job(spec: JobSpec, record: JobRecord, pods: Sequence[Pod], now: float) -> JobPlan:
    """Next step of a Job."""
    active = [pod for pod in pods if pod.active]
    if record.finished is not None:
        expired = spec.ttl_seconds is not None and now >= record.finished + spec.ttl_seconds
        return JobPlan(record, delete=tuple(pod.name for pod in active), expired=expired)
    record = _count_failures(record, pods)
    restarts = sum(pod.attempt for pod in active)
    if any(pod.finished == "Succeeded" for pod in pods):
        return JobPlan(replace(record, finished=now, outcome="Complete", reason="CompletionsReached"))
    if record.failed + restarts > spec.backoff_limit:
        text = f"Job has reached the specified backoff limit of {spec.backoff_limit}"
        return _failed(record, active, "BackoffLimitExceeded", text, now)
    if spec.active_deadline_seconds is not None and now >= record.started + spec.active_deadline_seconds:
        text = f"Job was active longer than {spec.active_deadline_seconds:.0f} s"
        return _failed(record, active, "DeadlineExceeded", text, now)
    return JobPlan(record, create=0 if any(p.finished is None for p in pods) or now < _retry_at(record, pods) else 1)


def _count_failures(record: JobRecord, pods: Sequence[Pod]) -> JobRecord:
    new = [pod.uid for pod in pods if pod.finished == "Failed" and pod.uid not in record.counted]
    return replace(record, failed=record.failed + len(new), counted=(*record.counted, *new)) if new else record


def _failed(record: JobRecord, active: Sequence[Pod], reason: str, message: str, now: float) -> JobPlan:
    record = replace(record, finished=now, outcome="Failed", reason=reason, message=message)
    return JobPlan(record, delete=tuple(pod.name for pod in active))


def _retry_at(record: JobRecord, pods: Sequence[Pod]) -> float:
    """When the next pod may start: with a growing delay after each failed one."""
    ends = [pod.last.finished for pod in pods if pod.last is not None and pod.finished == "Failed"]
    return max(ends) + backoff_seconds(record.failed) if ends else 0.0


def job_status(record: JobRecord, pods: Sequence[Pod]) -> dict[str, Any]:
    active = [pod for pod in pods if pod.active]
    status: dict[str, Any] = {
        "startTime": timestamp(record.started),
        "active": len(active),
        "ready": sum(pod.ready for pod in active),
        "succeeded": int(record.outcome == "Complete"),
        "failed": record.failed,
    }
    if record.finished is None:
        return status
    at = timestamp(record.finished)
    condition = {
        "type": record.outcome,
        "status": "True",
        "reason": record.reason,
        "message": record.message,
        "lastTransitionTime": at,
    }
    if record.outcome == "Complete":
        status["completionTime"] = at
    return status | {"conditions": [condition]}
