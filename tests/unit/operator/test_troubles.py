"""Why pods do not run, from statuses as a kubelet, a scheduler and a controller write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from continual_operator import reasons
from continual_operator.rehearsal import START
from continual_operator.troubles import Trouble, last_words, refused, trouble_of


def pod(container: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    if container is not None:
        status["containerStatuses"] = [{"ready": False, "restartCount": 0, **container}]
    return {"metadata": {"name": "p"}, "status": {"phase": "Pending", **status}}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}, **more}


def condition(kind: str, reason: str = "", message: str = "", seconds: float = 60) -> dict[str, Any]:
    since = (START - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": "False", "reason": reason, "message": message, "lastTransitionTime": since}


KILLED = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-05T11:59:00Z"}}
SAID = {"terminated": {"reason": "Error", "exitCode": 7, "message": "log line\nIntegrity: blob differs"}}
CREATING = waiting("ContainerCreating")
TABLE = [
    ("an image that is not there", pod(waiting("ErrImagePull", "not found")), "ImagePullBackOff", "not found"),
    ("an image that is waited for", pod(waiting("ImagePullBackOff", "x")), "ImagePullBackOff", "x"),
    ("an image that may not be pulled", pod(waiting("ErrImageNeverPull", "x")), "ImagePullBackOff", "x"),
    ("killed for its memory, waiting to start again", pod(waiting("CrashLoopBackOff", lastState=KILLED)), "OOMKilled", "limit"),
    ("killed for its memory, right now", pod({"state": KILLED}), "OOMKilled", "limit"),
    ("crashed with last words", pod(waiting("CrashLoopBackOff", lastState=SAID)), "CrashLoopBackOff", "Integrity: blob differs"),
    ("no node has room", pod(conditions=[condition("PodScheduled", "Unschedulable", "0/1 nodes")]), "Unschedulable", "0/1 nodes"),
    ("a Secret in a variable", pod(waiting("CreateContainerConfigError", 'secret "a" not found')), "ConnectionSecretMissing", '"a"'),
    ("another wrong configuration", pod(waiting("CreateContainerConfigError", "runAsUser")), "CreateContainerConfigError", "runAsUser"),
    (
        "a Secret in a volume",
        pod(CREATING, conditions=[condition("PodReadyToStartContainers", seconds=11)]),
        "ConnectionSecretMissing",
        "cannot be mounted",
    ),
    ("a volume that is just being mounted", pod(CREATING, conditions=[condition("PodReadyToStartContainers", seconds=3)]), "", ""),
    ("an image that is just being pulled", pod(CREATING), "", ""),
    ("a pod that waits for a node just now", pod(conditions=[condition("PodScheduled", "SchedulerError")]), "", ""),
    ("a pod that was evicted, another took its place", pod(reason="Evicted", phase="Failed"), "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("case", "seen", "reason", "words"), TABLE, ids=[row[0] for row in TABLE])
def test_what_a_pod_says_has_a_reason(case: str, seen: dict[str, Any], reason: str, words: str) -> None:
    """O8, O10: each way not to run has its own reason, and the message of who knows."""
    found = trouble_of([seen], START)
    assert found.reason == reason, case
    assert words in found.message


def test_a_missing_secret_is_looked_for_by_name() -> None:
    """The kubelet's words are in events, which the operator may not read; the names are in the pod."""
    stuck = pod(CREATING, conditions=[condition("PodReadyToStartContainers")])
    stuck["spec"] = {
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "redis", "secret": {"secretName": "redis-key"}}]
    }
    said = "a volume cannot be mounted; is there a Secret redis-key in this namespace?"
    assert trouble_of([stuck], START) == Trouble("ConnectionSecretMissing", said)


def test_a_pod_on_its_way_out_is_no_trouble() -> None:
    """A rolling update ends pods; how they end is nobody's news."""
    leaving = pod(waiting("CrashLoopBackOff"))
    leaving["metadata"]["deletionTimestamp"] = "2026-01-05T12:00:00Z"
    assert not trouble_of([leaving], START)


def test_pods_that_may_not_be_created_are_told_by_the_deployment() -> None:
    """A quota, an admission policy: there is no pod to ask."""
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    assert refused({"conditions": [failure]}) == Trouble("FailedCreate", "exceeded quota")
    assert refused({"conditions": [failure | {"status": "False"}]}) == Trouble()


def test_a_jobs_last_pod_tells_how_it_ended() -> None:
    """Its pods are not restarted: the newest end counts, and one that went well is none."""
    later = {"terminated": {**SAID["terminated"], "finishedAt": "2026-01-05T11:59:30Z"}}
    ended = [pod({"state": state}, phase="Failed") for state in (KILLED, later)]
    assert last_words(ended) == Trouble("Error", "Integrity: blob differs")
    assert last_words(ended[:1]).reason == "OOMKilled"
    assert not last_words([pod({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}})])


def test_reasons_that_people_look_for_are_reasons_of_conditions() -> None:
    """The others are told under PodsFailing, with the raw word in the message."""
    assert Trouble("OOMKilled").condition == "OOMKilled"
    assert Trouble("CrashLoopBackOff", "x").condition == reasons.PODS_FAILING
    assert str(Trouble("CrashLoopBackOff", "x")) == "CrashLoopBackOff: x"
