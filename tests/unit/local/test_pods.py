"""The life of a pod as a table: what was seen → what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from continual_cli.local import pods
from continual_cli.local.pods import Action, Pod
from continual_cli.local.processes import Exited, NotStarted, Running, Starting

TEMPLATE = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "main", "command": ["x"]}]}}
NOW = 1_000.0


def pod(**changes: object) -> Pod:
    base = Pod(
        name="digits-v1-0",
        namespace="default",
        uid="u",
        owner_kind="Deployment",
        owner_name="digits-v1",
        owner_uid="o",
        component="inference",
        template=TEMPLATE,
        digest="d",
        created=900.0,
        grace_seconds=10.0,
        restart_policy="Always",
    )
    return replace(base, **changes)


def ended(code: int = 1, ran: float = 1.0, number: int = 0, reason: str = "Error") -> Exited:
    return Exited(code, number, NOW - ran, NOW, reason)


RUNNING = Running(7, 990.0)

CASES = [
    ("a new pod is started", pod(), NotStarted(), Action.START),
    ("one that is being started is left alone", pod(), Starting(), Action.NOTHING),
    ("a running one is left alone", pod(), RUNNING, Action.NOTHING),
    ("one in back-off waits", pod(attempt=2, next_start=NOW + 1), NotStarted(), Action.NOTHING),
    ("one whose back-off is over is started", pod(attempt=2, next_start=NOW), NotStarted(), Action.START),
    ("a deleted one that never ran is removed", pod(kill_at=NOW + 5), NotStarted(), Action.REMOVE),
    ("a deleted one has its grace", pod(pid=7, kill_at=NOW + 5), RUNNING, Action.NOTHING),
    ("a deleted one is killed after its grace", pod(pid=7, kill_at=NOW), RUNNING, Action.KILL),
    ("one deleted while it was being started is asked to end", pod(kill_at=NOW + 5), RUNNING, Action.TERMINATE),
    ("a deleted one that has ended is removed", pod(pid=7, kill_at=NOW + 5), ended(), Action.REMOVE),
    ("one that ended is not started in the same step", pod(pid=7), ended(), Action.NOTHING),
    ("a finished one stays for its reader", pod(finished="Failed"), ended(), Action.NOTHING),
    ("a finished one that is deleted is removed", pod(finished="Failed", kill_at=NOW + 9), ended(), Action.REMOVE),
]


@pytest.mark.parametrize(("before", "seen", "action"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_done(before: Pod, seen: object, action: Action) -> None:
    """One look, one action; each row is a sentence."""
    assert pods.step(before, seen, "", NOW)[1] is action


def test_restarts_come_at_once_then_ever_later_and_the_reason_is_a_crash_loop() -> None:
    """0, 1, 2, 4 … seconds, as a kubelet does it with larger numbers."""
    current, delays = pod(), []
    for _ in range(9):
        current = replace(current, pid=7)
        current, _ = pods.step(current, ended(), "last words", NOW)
        assert current.next_start is not None
        delays.append(current.next_start - NOW)
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    state = pods.view(current)["status"]["containerStatuses"][0]
    assert state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert state["restartCount"] == 9
    assert state["lastState"]["terminated"]["message"] == "last words"


def test_a_healthy_run_forgives_the_crashes_before_it() -> None:
    """A worker killed once an hour must not wait a minute each time."""
    after, _ = pods.step(pod(pid=7, quick_ends=6), ended(ran=31.0), "", NOW)
    assert (after.next_start, after.quick_ends) == (NOW, 1)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_restart_policies(policy: str, code: int, again: bool) -> None:
    after, _ = pods.step(pod(pid=7, restart_policy=policy), ended(code), "", NOW)
    assert (after.finished is None) is again


def test_a_kill_by_the_kernel_for_memory_is_shown_as_such() -> None:
    """OOMKilled is a reason of its own: the operator says `out of memory`, not `crashed`."""
    after, _ = pods.step(pod(pid=7, restart_policy="Never"), ended(137, number=9, reason="OOMKilled"), "", NOW)
    terminated = pods.view(after)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["reason"], terminated["exitCode"], terminated["signal"]) == ("OOMKilled", 137, 9)


def test_a_job_that_completes_while_it_is_stopped_has_completed() -> None:
    """Its result is there; running it again would be wrong."""
    job = pod(pid=7, owner_kind="Job", restart_policy="Never", kill_at=NOW + 5)
    after, action = pods.step(job, ended(0), "", NOW)
    assert (after.finished, action) == ("Succeeded", Action.NOTHING)


def test_a_pod_survives_its_file() -> None:
    """What is written is what is read: `local up` may be killed at any time."""
    from dataclasses import asdict

    after, _ = pods.step(pod(pid=7), ended(), "words", NOW)
    assert pods.from_record(asdict(after)) == after


def test_readiness_belongs_to_a_living_active_pod() -> None:
    """A late answer of a poll does not make a deleted or dead pod ready."""
    assert pods.observe_ready(pod(pid=7), True, NOW).ready
    assert not pods.observe_ready(pod(), True, NOW).ready
    assert not pods.observe_ready(pod(pid=7, kill_at=NOW), True, NOW).ready
    assert not pods.delete(pod(pid=7, ready=True), NOW).ready
