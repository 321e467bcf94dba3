"""Why pods do not run, read from what a pod itself says: no right to read Secrets, events or logs is needed for it.

A kubelet names most reasons in the container's status. Two it does not: a pod that no node takes says so in the condition PodScheduled, and one
whose Secret is not there only never gets its sandbox (PodReadyToStartContainers stays False), because volumes come first.
What we mount is our Secrets, so that is what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from continual_operator import reasons
from continual_operator.cluster import Manifest

MOUNTED_WITHIN = timedelta(seconds=10)
"""A volume takes a second or two; later than this, something it needs is not there."""
CRASHING = "CrashLoopBackOff"
WAITING: Mapping[str, str] = {
    **dict.fromkeys(
        ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"),
        reasons.IMAGE_PULL_BACK_OFF,
    ),
    **{same: same for same in (CRASHING, "CreateContainerConfigError", "CreateContainerError", "RunContainerError")},
}
"""A kubelet's word → ours."""
DIED = {"OOMKilled": reasons.OOM_KILLED, "Error": "Error", "ContainerCannotRun": "RunContainerError"}
NAMED = {reasons.SECRET_MISSING, reasons.IMAGE_PULL_BACK_OFF, reasons.OOM_KILLED, reasons.UNSCHEDULABLE}
"""Troubles that are reasons of conditions themselves; all others are told as PodsFailing."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`reason` is empty where all is well; `restarts` those of the pod that fares worst."""

    reason: str = ""
    message: str = ""
    restarts: int = 0

    def __bool__(self) -> bool:
        return bool(self.reason)

    @property
    def condition(self) -> str:
        return self.reason if self.reason in NAMED else reasons.PODS_FAILING

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


NO_TROUBLE = Trouble()


def trouble_of(pods: Iterable[Manifest], now: datetime) -> Trouble:
    """The first trouble of any pod that should run; pods that ended for good are not asked, another one took their place."""
    found, restarts = NO_TROUBLE, 0
    for pod in pods:
        status: Mapping[str, Any] = pod.get("status") or {}
        if status.get("phase") in {"Failed", "Succeeded"} or pod["metadata"].get("deletionTimestamp"):
            continue
        for container in status.get("containerStatuses") or ():
            restarts = max(restarts, int(container.get("restartCount") or 0))
        found = found or _of_pod(pod, status, now)
    return replace(found, restarts=restarts)


def last_words(pods: Iterable[Manifest]) -> Trouble:
    """How the pod that ended last ended: for a Job, whose pods are not restarted."""
    ends = [
        (str(ended.get("finishedAt", "")), ended)
        for pod in pods
        for container in (pod.get("status") or {}).get("containerStatuses") or ()
        if (ended := (container.get("state") or {}).get("terminated")) and ended.get("exitCode")
    ]
    if not ends:
        return NO_TROUBLE
    _, ended = max(ends, key=lambda end: end[0])
    return Trouble(DIED.get(ended.get("reason", ""), "Error"), _words_of(ended))


def refused(deployment_status: Mapping[str, Any]) -> Trouble:
    """Pods that cannot even be created: a quota, a policy, a priority class that does not exist."""
    for condition in deployment_status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble(str(condition.get("reason") or "FailedCreate"), str(condition.get("message") or ""))
    return NO_TROUBLE


def _of_pod(pod: Manifest, status: Mapping[str, Any], now: datetime) -> Trouble:
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    scheduled, sandbox = conditions.get("PodScheduled") or {}, conditions.get("PodReadyToStartContainers") or {}
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Trouble(reasons.UNSCHEDULABLE, str(scheduled.get("message") or "no node takes it"))
    for container in status.get("containerStatuses") or ():
        if not container.get("ready") and (found := _of_container(container)):
            return found
    if sandbox.get("status") == "False" and now - _time(sandbox) >= MOUNTED_WITHIN and not status.get("reason"):
        return Trouble(reasons.SECRET_MISSING, f"a volume cannot be mounted; {_wanted_secrets(pod)}")
    return NO_TROUBLE


def _wanted_secrets(pod: Manifest) -> str:
    """What to look for, by name: the kubelet's own words are in events, which we may not read."""
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    named = [volume["secret"].get("secretName", "") for volume in volumes if "secret" in volume]
    return f"is there a Secret {' and '.join(named)} in this namespace?" if named else "see kubectl describe pod"


def _of_container(container: Mapping[str, Any]) -> Trouble:
    state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    reason = WAITING.get(waiting.get("reason", ""), "")
    died = DIED.get(ended.get("reason", ""), "") or DIED.get(last.get("reason", ""), "")
    said = str(waiting.get("message") or "")
    if reason == "CreateContainerConfigError" and "secret" in said.lower():
        return Trouble(reasons.SECRET_MISSING, said)
    if died == reasons.OOM_KILLED:
        return Trouble(died, "used more memory than its limit")
    if reason == CRASHING or (not reason and died):
        return Trouble(reason or died, _words_of(ended or last))
    return Trouble(reason, said)


def _words_of(ended: Mapping[str, Any]) -> str:
    """What the process said at its end, else its exit code."""
    said = str(ended.get("message") or "").strip()
    code = ended.get("exitCode")
    return said.splitlines()[-1][:300] if said else f"exit code {code}" if code is not None else ""


def _time(condition: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(condition.get("lastTransitionTime")))
