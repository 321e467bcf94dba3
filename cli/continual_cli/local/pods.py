"""The life of one pod, as a pure step: what was seen of its process → its next state and what to do.

A pod is one process in numbered attempts. It is restarted as a kubelet restarts a container: at once after the first end, then with a
delay that doubles, back to none after it has run for a while. Its view for readers has the fields and reasons of a Kubernetes pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from continual_cli.local.processes import Exited, NotStarted, Observation, Running, Starting
from continual_cli.local.state import timestamp

BACKOFF_SECONDS = 1.0
BACKOFF_LIMIT_SECONDS = 60.0
HEALTHY_SECONDS = 30.0
"""A process that ran this long starts anew without delay. (A kubelet: 10 s, 300 s and 600 s; one machine can be quicker.)"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    exit_code: int
    signal: int
    reason: str
    message: str
    started: float
    finished: float


@dataclass(frozen=True, slots=True)
class Pod:
    """Everything that must be known of a pod after `local up` was killed."""

    name: str
    namespace: str
    uid: str
    owner_kind: str
    owner_name: str
    owner_uid: str
    component: str
    template: Mapping[str, Any]
    """The manifest's own template: a pod keeps the one it was made from."""
    digest: str
    created: float
    grace_seconds: float
    restart_policy: str
    attempt: int = 0
    pid: int | None = None
    started: float | None = None
    ready: bool = False
    ready_since: float | None = None
    quick_ends: int = 0
    """Ends in a row without a healthy run between them."""
    next_start: float | None = None
    """Not before; None: at once."""
    last: Ended | None = None
    """End of the previous attempt, or of this one once `phase` is Succeeded or Failed."""
    finished: str | None = None
    """Succeeded or Failed: never started again."""
    kill_at: float | None = None
    """Being deleted: SIGKILL is due then."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def deleting(self) -> bool:
        return self.kill_at is not None

    @property
    def active(self) -> bool:
        return self.finished is None and not self.deleting


class Action(Enum):
    """What to do with the pod's process."""

    NOTHING = "nothing"
    START = "start"
    TERMINATE = "terminate"
    KILL = "kill"
    REMOVE = "remove"


def from_record(record: Mapping[str, Any]) -> Pod:
    last = record.get("last")
    return Pod(**{**record, "last": Ended(**last) if last else None})


def step(pod: Pod, seen: Observation, message: str, now: float) -> tuple[Pod, Action]:
    """One look at a pod.

    Args:
        pod: as it was.
        seen: what has become of its current attempt.
        message: last words of the process, should it have ended.
        now: seconds since the epoch.
    """
    if pod.finished is not None:
        return pod, Action.REMOVE if pod.deleting else Action.NOTHING
    if isinstance(seen, Running):
        return _running(pod, seen, now)
    if isinstance(seen, Starting):
        return pod, Action.NOTHING
    if isinstance(seen, NotStarted):
        return _not_started(pod, now)
    return _ended(pod, seen, message, now)


def _running(pod: Pod, seen: Running, now: float) -> tuple[Pod, Action]:
    after = replace(pod, pid=seen.pid, started=seen.since, next_start=None)
    if pod.kill_at is None:
        return after, Action.NOTHING
    if now >= pod.kill_at:
        return after, Action.KILL
    return after, Action.TERMINATE if pod.pid is None else Action.NOTHING  # deleted before there was a process to ask


def _not_started(pod: Pod, now: float) -> tuple[Pod, Action]:
    if pod.deleting:
        return pod, Action.REMOVE
    waiting = pod.next_start is not None and now < pod.next_start
    return pod, Action.NOTHING if waiting else Action.START


def _ended(pod: Pod, seen: Exited, message: str, now: float) -> tuple[Pod, Action]:
    ended = Ended(seen.exit_code, seen.signal, seen.reason, seen.message or message, seen.started, seen.finished)
    pod = replace(pod, pid=None, ready=False, ready_since=None, last=ended)
    completed = pod.owner_kind == "Job" and seen.exit_code == 0
    if pod.deleting and not completed:
        return pod, Action.REMOVE
    if completed or not restart_due(pod.restart_policy, seen.exit_code):
        return replace(pod, finished="Succeeded" if seen.exit_code == 0 else "Failed", kill_at=None), Action.NOTHING
    quick = 0 if seen.finished - seen.started >= HEALTHY_SECONDS else pod.quick_ends
    again = replace(
        pod, attempt=pod.attempt + 1, started=None, quick_ends=quick + 1, next_start=now + backoff_seconds(quick)
    )
    return again, Action.NOTHING


def restart_due(policy: str, exit_code: int) -> bool:
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def backoff_seconds(ends_before: int) -> float:
    """0, 1, 2, 4 … 60 seconds."""
    return 0.0 if ends_before == 0 else min(BACKOFF_SECONDS * 2.0 ** (ends_before - 1), BACKOFF_LIMIT_SECONDS)


def delete(pod: Pod, now: float) -> Pod:
    """Mark for deletion; its grace runs from the first mark."""
    return pod if pod.deleting else replace(pod, kill_at=now + pod.grace_seconds, ready=False)


def observe_ready(pod: Pod, ready: bool, now: float) -> Pod:
    """Take the answer of a readiness poll."""
    ready = ready and pod.active and pod.pid is not None
    if ready == pod.ready:
        return pod
    return replace(pod, ready=ready, ready_since=now if ready else None)


# -- the view for readers


def phase(pod: Pod) -> str:
    if pod.finished:
        return pod.finished
    return "Running" if pod.pid is not None or pod.attempt > 0 else "Pending"


def view(pod: Pod) -> dict[str, Any]:
    """The pod as Kubernetes would show it."""
    metadata = {
        "name": pod.name,
        "namespace": pod.namespace,
        "uid": pod.uid,
        "creationTimestamp": timestamp(pod.created),
        "labels": dict(pod.labels),
        "annotations": dict((pod.template.get("metadata") or {}).get("annotations") or {}),
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": pod.owner_kind,
                "name": pod.owner_name,
                "uid": pod.owner_uid,
                "controller": True,
            }
        ],
    }
    if pod.kill_at is not None:
        metadata["deletionTimestamp"] = timestamp(pod.kill_at)
    ready = {"type": "Ready", "status": "True" if pod.ready else "False"}
    if pod.ready_since is not None:
        ready["lastTransitionTime"] = timestamp(pod.ready_since)
    status = {"phase": phase(pod), "conditions": [ready], "containerStatuses": [_container_status(pod)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.template["spec"], "status": status}


def _container_status(pod: Pod) -> dict[str, Any]:
    container = pod.template["spec"]["containers"][0]
    name = container.get("name", "main")
    status = {
        "name": name,
        "image": container.get("image", ""),
        "ready": pod.ready,
        "started": pod.pid is not None,
        "restartCount": pod.attempt,
        "state": _state(pod, name),
    }
    if pod.last is not None and pod.finished is None:
        status["lastState"] = {"terminated": _terminated(pod.last)}
    return status


def _state(pod: Pod, container: str) -> dict[str, Any]:
    if pod.finished and pod.last:
        return {"terminated": _terminated(pod.last)}
    if pod.pid is not None and pod.started is not None:
        return {"running": {"startedAt": timestamp(pod.started)}}
    if pod.quick_ends > 1:
        delay = backoff_seconds(pod.quick_ends - 1)
        text = f"back-off {delay:.0f}s restarting failed container={container} pod={pod.name}"
        return {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    return {"waiting": {"reason": "ContainerCreating"}}


def _terminated(ended: Ended) -> dict[str, Any]:
    document = {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "startedAt": timestamp(ended.started),
        "finishedAt": timestamp(ended.finished),
    }
    if ended.signal:
        document["signal"] = ended.signal
    if ended.message:
        document["message"] = ended.message
    return document
