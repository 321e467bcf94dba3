"""Deployments and Jobs as pure plans."""

from __future__ import annotations

from dataclasses import replace

from continual_cli.local import workloads
from continual_cli.local.manifests import Container, DeploymentSpec, JobSpec, Template
from continual_cli.local.pods import Ended, Pod
from continual_cli.local.workloads import JobRecord, PodPlan
from hypothesis import given
from hypothesis import strategies as st

NEW = Template({}, {}, Container("main", ("x",), (), None, None), 1.0, "Always", "new")
NOW = 1_000.0


def pod(name: str, digest: str = "new", ready: bool = True, **changes: object) -> Pod:
    base = Pod(name, "default", name, "Deployment", "d", "o", "inference", {}, digest, 1.0, 1.0, "Always")
    return replace(base, ready=ready, pid=1, **changes)


def deployment(replicas: int, recreate: bool = False) -> DeploymentSpec:
    return DeploymentSpec(replicas, recreate, NEW)


def test_missing_pods_are_created_and_surplus_ones_deleted() -> None:
    assert workloads.plan_deployment(deployment(2), []) == PodPlan(create=2)
    assert workloads.plan_deployment(deployment(1), [pod("a"), pod("b", ready=False)]) == PodPlan(delete=("b",))


def test_a_roll_adds_one_new_pod_before_an_old_ready_one_goes() -> None:
    """Surge one, unavailable none."""
    old = [pod("a", "old"), pod("b", "old")]
    assert workloads.plan_deployment(deployment(2), old) == PodPlan(create=1)
    assert workloads.plan_deployment(deployment(2), [*old, pod("n", ready=False)]) == PodPlan()
    assert len(workloads.plan_deployment(deployment(2), [*old, pod("n")]).delete) == 1


def test_old_pods_that_are_not_ready_go_at_once() -> None:
    """A broken old template must not hold up its repair."""
    assert workloads.plan_deployment(deployment(1), [pod("a", "old", ready=False)]).delete == ("a",)


def test_recreate_starts_nothing_new_while_anything_old_lives() -> None:
    """The evaluator must never run twice."""
    assert workloads.plan_deployment(deployment(1, recreate=True), [pod("a", "old")]) == PodPlan(delete=("a",))
    assert workloads.plan_deployment(deployment(1, recreate=True), [pod("a", "old", kill_at=NOW)]) == PodPlan()
    assert workloads.plan_deployment(deployment(1, recreate=True), []) == PodPlan(create=1)


PODS = st.lists(
    st.builds(
        lambda digest, ready, deleting: (digest, ready, deleting),
        st.sampled_from(["old", "new"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
)


@given(replicas=st.integers(0, 4), kinds=PODS, recreate=st.booleans())
def test_no_plan_takes_ready_pods_below_the_number_or_total_above_one_more(
    replicas: int, kinds: list[tuple[str, bool, bool]], recreate: bool
) -> None:
    """Holds from every state, reachable or not (a roll; `Recreate` trades the first half for never overlapping)."""
    given_pods = [
        pod(f"p{i}", digest, ready and not deleting, kill_at=NOW if deleting else None)
        for i, (digest, ready, deleting) in enumerate(kinds)
    ]
    plan = workloads.plan_deployment(deployment(replicas, recreate), given_pods)
    live = [p for p in given_pods if not p.deleting]
    ready_before = sum(p.ready for p in live)
    ready_after = sum(p.ready for p in live if p.name not in plan.delete)
    assert set(plan.delete) <= {p.name for p in live}
    if not recreate:
        assert ready_after >= min(replicas, ready_before)
    assert plan.create == 0 or len(live) + plan.create <= max(replicas + 1, len(live))


def job(**changes: object) -> JobSpec:
    return replace(JobSpec(2, None, None, replace(NEW, restart_policy="Never")), **changes)


def failed(name: str, at: float = NOW - 100) -> Pod:
    return pod(name, ready=False, finished="Failed", last=Ended(1, 0, "Error", "", at - 1, at))


START = JobRecord(started=NOW - 50)


def test_a_job_creates_one_pod_and_no_second_beside_it() -> None:
    assert workloads.plan_job(job(), START, [], NOW).create == 1
    assert workloads.plan_job(job(), START, [pod("a")], NOW).create == 0
    assert workloads.plan_job(job(), START, [pod("a", kill_at=NOW + 3)], NOW).create == 0


def test_a_failed_pod_is_counted_once_and_followed_after_a_delay() -> None:
    first = workloads.plan_job(job(), START, [failed("a", NOW)], NOW)
    assert (first.record.failed, first.create) == (1, 0)
    again = workloads.plan_job(job(), first.record, [failed("a", NOW)], NOW + 2)
    assert (again.record.failed, again.create) == (1, 1)


def test_failures_above_the_limit_fail_the_job() -> None:
    plan = workloads.plan_job(job(backoff_limit=1), START, [failed("a"), failed("b")], NOW)
    assert (plan.record.outcome, plan.record.reason) == ("Failed", "BackoffLimitExceeded")


def test_restarts_in_place_count_against_the_limit_too() -> None:
    plan = workloads.plan_job(job(backoff_limit=1), START, [pod("a", attempt=2)], NOW)
    assert (plan.record.reason, plan.delete) == ("BackoffLimitExceeded", ("a",))


def test_success_beats_a_deadline_that_passes_at_the_same_look() -> None:
    """What was learned must not be thrown away."""
    plan = workloads.plan_job(job(active_deadline_seconds=10.0), START, [pod("a", finished="Succeeded")], NOW)
    assert plan.record.outcome == "Complete"


def test_a_finished_job_never_starts_again_and_expires() -> None:
    done = replace(START, finished=NOW, outcome="Complete")
    assert workloads.plan_job(job(ttl_seconds=60.0), done, [], NOW + 59) == workloads.JobPlan(done)
    assert workloads.plan_job(job(ttl_seconds=60.0), done, [], NOW + 60).expired
