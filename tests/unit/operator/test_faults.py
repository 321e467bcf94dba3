"""What a model says, and what it does not do, when something it stands on fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis
from continual_contract.errors import StoreUnavailableError
from continual_operator import conditions, converge, labels, rollout, troubles
from continual_operator import observe as observing
from continual_operator.children import TRIES
from continual_operator.observe import observe
from continual_operator.rehearsal import Rehearsal, minimal_model
from continual_operator.spec import parse_model
from continual_operator.status import Training

Stage = Callable[..., Rehearsal]


def said(play: Rehearsal, kind: str = "Ready") -> tuple[str, str]:
    return next((c.status, c.reason) for c in play.status.conditions if c.type == kind)


def message(play: Rehearsal, kind: str = "Ready") -> str:
    return next(c.message for c in play.status.conditions if c.type == kind)


def put_pod(play: Rehearsal, marks: dict[str, str], container: dict[str, Any], restarts: int = 0) -> None:
    """A pod of a component, as the kubelet tells of it."""
    name = "-".join(["pod", *marks.values()])
    play.cluster.objects["Pod", name] = {
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {labels.MODEL: "digits", **marks}},
        "status": {"phase": "Pending", "containerStatuses": [{"ready": False, "restartCount": restarts, **container}]},
    }


def crash(play: Rehearsal, version: str, restarts: int) -> None:
    """Its pods die again and again; none is Ready."""
    last = {"terminated": {"reason": "Error", "exitCode": 1, "message": "WRONGTYPE serve"}}
    marks = {labels.COMPONENT: labels.INFERENCE, labels.VERSION: version}
    put_pod(play, marks, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}, restarts)
    play.make_ready(version, 0)


def recover(play: Rehearsal, version: str) -> None:
    del play.cluster.objects["Pod", f"pod-{labels.INFERENCE}-{version}"]
    play.make_ready(version)


def wait(number: int, *waits: Callable[[], object]) -> None:
    for _ in range(number):
        for act in waits:
            act()


# Conditions -----------------------------------------------------------------------------------------------------------------


def test_a_stable_version_whose_pods_do_not_run_says_why(stage: Stage) -> None:
    """O8: Ready=False with the kubelet's reason and the worker's last words."""
    play = stage()
    play.serve_first()
    crash(play, "v1", 5)
    play.look()
    assert said(play) == said(play, "Serving") == ("False", "PodsFailing")
    assert message(play) == "0 of 2 pods of v1 are Ready; CrashLoopBackOff: WRONGTYPE serve"
    assert said(play, "Degraded") == ("True", "PodsFailing")


def test_one_pod_of_two_that_is_killed_for_its_memory_is_degraded_not_down(stage: Stage) -> None:
    """Answers are given: Ready stays True, Degraded names the reason."""
    play = stage()
    play.serve_first()
    marks = {labels.COMPONENT: labels.INFERENCE, labels.VERSION: "v1"}
    put_pod(play, marks, {"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}, 2)
    play.make_ready("v1", 1)
    play.look()
    assert said(play) == ("True", "AsExpected")
    assert said(play, "Degraded") == ("True", "OOMKilled")


def test_a_new_template_that_does_not_come_up_is_told_while_the_old_pods_serve(stage: Stage) -> None:
    """A rolling update that is stuck costs no answer, and must not be silent."""
    play = stage()
    play.serve_first()
    marks = {labels.COMPONENT: labels.INFERENCE, labels.VERSION: "v1"}
    put_pod(play, marks, {"state": {"waiting": {"reason": "ErrImagePull", "message": "inference:2 not found"}}})
    play.look()
    assert said(play) == ("True", "AsExpected")
    assert said(play, "Degraded") == ("True", "ImagePullBackOff")


def test_a_first_training_that_cannot_start_is_told_in_ready(stage: Stage) -> None:
    """`kubectl get ctm` alone says that the trainer's image is not there, not only that there is no version."""
    play = stage()
    play.settle()
    training = play.status.training
    assert training is not None
    container = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "trainer:1 not found"}}}
    put_pod(play, {labels.COMPONENT: labels.TRAINER, labels.JOB: training.job}, container)
    play.look()
    assert said(play) == ("False", "ImagePullBackOff")
    assert "trainer:1 not found" in message(play)
    assert said(play, "Training") == ("True", "Bootstrap")


def test_a_store_that_is_away_is_told_and_serving_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready=False, because no pod could start now; Serving stays True, and nothing is rolled back for it (R4)."""
    play = stage()
    play.serve_first()

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailableError("timed out", field="store")

    with monkeypatch.context() as broken:
        for name in ("get", "exists"):
            broken.setattr(type(play.store), name, away)
        play.pass_time(11)  # nothing is asked of it, but whether it answers
        play.look()
        assert said(play) == ("False", "StoreUnavailable")
        assert said(play, "Serving") == ("True", "AsExpected")
        assert "v1 serves with 2 of 2 pods" in message(play)
    play.settle()
    assert said(play) == ("True", "AsExpected")


def test_mutation_a_store_that_is_never_asked_is_never_missed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: an idle model needs nothing of its store."""
    monkeypatch.setattr(observing, "STORE_INTERVAL", timedelta(days=1))
    play = stage()
    play.serve_first()
    monkeypatch.setattr(type(play.store), "exists", lambda *_: 1 / 0)
    play.pass_time(11)
    play.look()
    assert said(play) == ("True", "AsExpected")


def test_a_store_that_hangs_is_asked_by_one_look_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of models must not each hold a thread: they wait for the same answer."""
    play = stage()
    play.serve_first()
    asking, at_once = [0], [0]

    def hang(*_: object) -> bool:
        asking[0] += 1
        at_once.append(asking[0])
        time.sleep(0.02)
        asking[0] -= 1
        raise StoreUnavailableError("timed out", field="store")

    monkeypatch.setattr(type(play.store), "exists", hang)
    play.pass_time(11)
    model = parse_model(next(iter(play.cluster.models.values())))

    async def together() -> list[bool]:
        return [obs.store_ok for obs in await asyncio.gather(*(observe(model, play.deps) for _ in range(20)))]

    assert play.wait_for(together()) == [False] * 20
    assert max(at_once) == 1


def test_lost_data_is_told_until_the_evaluator_speaks_again(stage: Stage) -> None:
    """S12: FLUSHALL and FUNCTION FLUSH; routed anew at once, Ready=False until somebody counts answers again."""
    play = stage()
    play.serve_first()
    play.report()
    play.settle()
    assert said(play) == ("True", "AsExpected")
    play.redis.flushall()
    play.redis.function_flush()
    play.pass_time(11)
    play.look()
    assert said(play) == said(play, "Serving") == ("False", "StreamReset")
    play.settle()
    assert play.shares == {"v1": 10_000}
    assert said(play) == ("False", "StreamReset")
    assert said(play, "Serving") == ("True", "AsExpected")
    play.pass_time(5)
    play.report()
    play.settle()
    assert said(play) == ("True", "AsExpected")
    assert said(play, "DataLoss") == ("True", "StreamReset")


def test_mutation_a_reset_that_is_not_looked_for_is_told_by_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation check: routed anew within the second, and nobody would know that requests are gone."""
    monkeypatch.setattr(conditions, "_has_lost_routing", lambda _: False)
    play = stage()
    play.serve_first()
    play.redis.flushall()
    play.settle()
    assert said(play) == ("True", "AsExpected")


def test_lost_data_does_not_keep_a_model_from_ready_for_ever(stage: Stage) -> None:
    """A silent evaluator is a condition of its own: after a minute Ready says again what serving does."""
    play = stage()
    play.serve_first()
    play.redis.flushall()
    play.settle()
    assert said(play) == ("False", "StreamReset")
    play.pass_time(61)
    play.settle()
    assert said(play) == ("True", "AsExpected")


@pytest.mark.parametrize("rubbish", ["[]", "{", '{"gen": 1, "epochs": [{}]}', "null"])
def test_a_routing_table_that_is_none_is_told_and_nothing_is_routed_by_it(stage: Stage, rubbish: str) -> None:
    """Somebody wrote our key: Ready says which, nothing is decided meanwhile, and deleting the key puts it right."""
    play = stage()
    play.serve_first()
    play.redis.set(play.keys.routing, rubbish)
    play.look()
    assert said(play) == ("False", "RedisUnavailable")
    assert f"{play.keys.routing} in Redis is no routing table" in message(play)
    play.redis.delete(play.keys.routing)
    play.settle()
    assert play.shares == {"v1": 10_000}


def test_a_key_of_another_type_is_told_as_redis_says_it(stage: Stage) -> None:
    """A report that is a string: WRONGTYPE, for this model only."""
    play = stage()
    play.serve_first()
    play.redis.set(play.keys.report, "x")
    play.look()
    assert said(play) == ("False", "RedisUnavailable")
    assert "WRONGTYPE" in message(play)


def test_a_uid_that_redis_forgot_is_written_down_again(stage: Stage) -> None:
    """Else the sweeper would leave the keys of a model that is deleted after a FLUSHALL."""
    play = stage()
    play.serve_first()
    play.redis.flushall()
    play.settle()
    assert play.redis.hgetall("ctm-installation:local") == {b"uid-model": b"default/digits"}


# Within half a minute -------------------------------------------------------------------------------------------------------


class Away:
    """A Redis that refuses every connection."""

    def __getattr__(self, name: str) -> Any:
        raise redis.ConnectionError("refused")


def lose_workers(play: Rehearsal) -> None:
    play.make_ready("v1", 0)


def lose_redis(play: Rehearsal) -> None:
    play.deps.redis = Away()  # type: ignore[assignment]  # of a client only that it fails


def lose_store(play: Rehearsal) -> None:
    def away(*_: object) -> bool:
        raise StoreUnavailableError("timed out", field="store")

    play.store.exists = away  # type: ignore[method-assign]


LOSSES = {lose_workers: "NoReadyPods", lose_redis: "RedisUnavailable", lose_store: "StoreUnavailable"}
TOLD_WITHIN_SECONDS = 30.0


def ready_after_loss(play: Rehearsal, lose: Callable[[Rehearsal], None]) -> tuple[str, str]:
    """What an idle model says half a minute after a loss that nobody told the operator of: it looks when it said it would."""
    play.serve_first()
    again = play.look()
    lose(play)
    left = TOLD_WITHIN_SECONDS
    while again is not None and again.total_seconds() <= left:
        play.pass_time(again.total_seconds())
        left -= again.total_seconds()
        again = play.look()
    return said(play)


@pytest.mark.parametrize(("lose", "reason"), LOSSES.items(), ids=["workers", "Redis", "store"])
def test_what_is_gone_is_told_within_half_a_minute_though_nobody_asks(
    stage: Stage, lose: Callable[[Rehearsal], None], reason: str
) -> None:
    """O8: workers, Redis and store: Ready=False with its reason."""
    assert ready_after_loss(stage(), lose) == ("False", reason)


@pytest.mark.parametrize("lose", LOSSES, ids=["workers", "Redis", "store"])
def test_mutation_a_ready_by_what_was_wished_is_never_taken_back(
    stage: Stage, lose: Callable[[Rehearsal], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation check: Ready from spec and status alone, without a look at the world."""
    monkeypatch.setattr(conditions, "_ready", lambda *_: ("True", "AsExpected", ""))
    assert ready_after_loss(stage(), lose) == ("True", "AsExpected")


@pytest.mark.parametrize("lose", LOSSES, ids=["workers", "Redis", "store"])
def test_mutation_a_model_at_rest_that_is_not_looked_at_tells_nothing(
    stage: Stage, lose: Callable[[Rehearsal], None]
) -> None:
    """Mutation check: an operator that waits to be woken."""
    play = stage()
    play.deps.settings = replace(play.deps.settings, idle_interval=timedelta(hours=1))
    assert ready_after_loss(play, lose) == ("True", "AsExpected")


# A canary and its stable ----------------------------------------------------------------------------------------------------


def test_a_canary_whose_pods_crash_is_rolled_back_with_what_they_said(stage: Stage) -> None:
    """O10: stable runs, the canary does not."""
    play = stage()
    play.serve_first()
    play.reach_shadow()
    crash(play, "v2", rollout.CRASHES)
    play.look()
    assert play.status.canary is None
    decision = play.status.decisions[-1]
    assert (decision.action, decision.reason) == ("Rollback", "CanaryCrashed")
    assert decision.message == "CrashLoopBackOff: WRONGTYPE serve, 3 restarts"


def test_what_stables_pods_suffer_too_convicts_no_canary(stage: Stage) -> None:
    """A foreign key in Redis, a secret that is gone: both crash; afterwards the canary gets its time to come back."""
    play = stage(minimal_model(rollout={"deadline": "10h"}))
    play.serve_first()
    play.reach_shadow()
    for restarts in (3, 9):
        for version in ("v1", "v2"):
            crash(play, version, restarts)
        play.pass_time(rollout.START_LIMIT.total_seconds() / 2 + 1)
        play.report()
        wait(3, play.look)
        assert play.status.canary is not None
    recover(play, "v1")  # the canary's kubelet still waits, with ten restarts
    play.report()
    wait(2, play.look)
    assert play.status.canary is not None
    assert play.status.canary.excused_restarts == 9
    recover(play, "v2")
    play.settle()
    assert play.status.canary is not None
    crash(play, "v2", 9 + rollout.CRASHES)
    wait(2, play.look)
    assert play.status.canary is None


def test_mutation_without_the_excuse_the_canary_is_convicted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check of the test above."""
    monkeypatch.setattr(rollout, "_shares_fate", lambda *_: False)
    play = stage()
    play.serve_first()
    play.reach_shadow()
    for version in ("v1", "v2"):
        crash(play, version, 3)
    play.look()
    assert play.status.canary is None


NO_IMAGE = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "inference:2 not found"}}}
OUT_OF_MEMORY = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
}


def end_of_v2(play: Rehearsal, container: dict[str, Any], restarts: int, seconds: float = 0) -> str:
    """Why v2 was given up this long after its pods began to fare so; empty while it is not."""
    play.serve_first()
    play.start_retraining()
    play.end_training()
    wait(5, lambda: play.make_ready("v1"), play.look)
    assert set(play.cluster.deployments()) == {"v1", "v2"}
    put_pod(play, {labels.COMPONENT: labels.INFERENCE, labels.VERSION: "v2"}, container, restarts)
    play.pass_time(seconds)
    wait(5, lambda: play.make_ready("v1"), play.look)
    assert play.shares == {"v1": 10_000}
    return play.status.decisions[-1].message if play.status.canary is None else ""


def test_a_canary_whose_image_is_not_there_is_given_up_with_the_kubelets_words(stage: Stage) -> None:
    """O10: it may still come for ten minutes; then the reason is told, not only that time is over."""
    late = rollout.START_LIMIT.total_seconds() + 1
    assert end_of_v2(stage(), NO_IMAGE, 0) == ""
    assert end_of_v2(stage(), NO_IMAGE, 0, late) == "ImagePullBackOff: inference:2 not found, 0 restarts"


def test_mutation_without_the_kubelets_words_nobody_knows_of_the_image(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation check: the reason for which a container waits is ignored."""
    monkeypatch.setattr(troubles, "WAITING", {})
    end = end_of_v2(stage(), NO_IMAGE, 0, rollout.START_LIMIT.total_seconds() + 1)
    assert end == "no Ready pod for 0:10:00"


def test_a_canary_that_is_killed_for_its_memory_is_given_up_at_once(stage: Stage) -> None:
    """O10: three restarts, no minute of waiting."""
    said = f"OOMKilled: used more memory than its limit, {rollout.CRASHES} restarts"
    assert end_of_v2(stage(), OUT_OF_MEMORY, rollout.CRASHES - 1) == ""
    assert end_of_v2(stage(), OUT_OF_MEMORY, rollout.CRASHES) == said


def test_mutation_restarts_that_nobody_counts_go_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: only time ends it."""
    monkeypatch.setattr(rollout, "CRASHES", 1_000_000)
    assert end_of_v2(stage(), OUT_OF_MEMORY, 3) == ""


def test_mutation_a_canary_that_may_start_for_ever_is_never_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation check: nobody keeps since when it has no Ready pod; a day later it is still waited for."""
    day = timedelta(days=1).total_seconds()
    starting = {"state": {"running": {}}}
    assert end_of_v2(stage(), starting, 0, day) == "no Ready pod for 0:10:00"
    forgetful = lambda _, canary: canary.model_copy(update={"unready_since": None})
    monkeypatch.setattr(rollout, "_watch_pods", forgetful)
    assert end_of_v2(stage(), starting, 0, day) == ""


# The failure budget of a training -------------------------------------------------------------------------------------------


def job_of(play: Rehearsal) -> dict[str, Any]:
    [job] = play.cluster.jobs()
    return job


def test_deleting_its_job_gives_a_training_no_new_tries(stage: Stage) -> None:
    """O10: one failed pod and two deleted Jobs are three tries; what is left is what the next Job gets, then it is over."""
    play = stage()
    play.settle()
    limits = []
    for failures in (1, 0):
        job = job_of(play)
        limits.append(job["spec"]["backoffLimit"])
        job["status"] = {"failed": failures, "active": 1}
        play.settle()
        del play.cluster.objects["Job", job["metadata"]["name"]]
        play.settle()
    limits += [job["spec"]["backoffLimit"] for job in play.cluster.jobs()]
    assert limits == [2, 0]
    training = play.status.training
    assert training is not None
    assert (training.state, training.reason) == ("Failed", "JobFailed")
    assert training.message == f"{TRIES} tries were used up, the last by deleting the Job"
    assert play.cluster.jobs() == []


def test_mutation_without_the_record_a_training_never_ends(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation check: a Job that is deleted again and again would be made again and again, with all its tries."""
    monkeypatch.setattr(Training, "tries_used", 0)
    play = stage()
    play.settle()
    for _ in range(2 * TRIES):
        job = job_of(play)
        assert job["spec"]["backoffLimit"] == TRIES - 1
        job["status"] = {"failed": 1, "active": 1}
        play.settle()
        del play.cluster.objects["Job", job["metadata"]["name"]]
        play.settle()
    assert play.status.training is not None
    assert play.status.training.in_flight


def test_a_job_that_was_only_not_seen_costs_no_try(stage: Stage) -> None:
    """A blind look leads to a create that finds it there: the same uid, nothing spent."""
    play = stage()
    play.settle()
    job = job_of(play)
    for _ in range(5):
        kept = play.cluster.objects.pop(("Job", job["metadata"]["name"]))
        play.look()
        play.cluster.objects["Job", job["metadata"]["name"]] = kept
        play.look()
    training = play.status.training
    assert training is not None
    assert (training.state, training.spent, training.job_uid) == ("Running", 0, job["metadata"]["uid"])


def test_a_failed_job_of_an_earlier_resource_says_nothing_about_this_training(stage: Stage) -> None:
    """Same name, same inputs, another uid: it is waited for until it is collected."""
    play = stage()
    play.settle()
    job = job_of(play)
    job["metadata"]["ownerReferences"][0]["uid"] = "uid-of-another-life"
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    play.settle()
    assert play.status.training is not None
    assert play.status.training.in_flight


def test_a_first_training_that_failed_is_tried_again_by_another_job(stage: Stage) -> None:
    """An API server drops nulls from what it keeps; a retry under the name of the failed Job would fail without a try, three times in a row."""
    play = stage()
    play.settle()
    job = job_of(play)
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}
    for model in play.cluster.models.values():
        model["status"] = without_nulls(model["status"])
    play.settle()
    for model in play.cluster.models.values():
        model["status"] = without_nulls(model["status"])
    play.pass_time(3600)
    play.settle()
    training = play.status.training
    assert training is not None
    assert training.in_flight
    assert job_of(play)["metadata"]["name"] != job["metadata"]["name"]
    assert play.status.retrained.failures == 1


def without_nulls(value: Any) -> Any:
    """As an API server keeps it."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


# Budgets for evictions ------------------------------------------------------------------------------------------------------


def test_every_live_version_has_a_budget_that_goes_with_it(stage: Stage) -> None:
    """Made with the version's pods, removed with them; on one machine there is none, because nobody evicts."""
    play = stage()
    play.deps.settings = replace(play.deps.settings, disruption_budgets=True)
    play.serve_first()

    def budgets() -> set[str]:
        return {name for kind, name in play.cluster.objects if kind == "PodDisruptionBudget"}

    assert budgets() == {"digits-v1"}
    play.reach_shadow()
    assert budgets() == {"digits-v1", "digits-v2"}
    play.annotate(labels.REJECT, "v2")
    play.settle()
    play.redis.delete(play.keys.serve)
    play.settle()
    left = set(play.cluster.deployments())
    assert budgets() == {f"digits-{version}" for version in left}
    assert [
        a for a in converge.converge(observed(play), play.deps.settings) if isinstance(a, converge.ApplyChild)
    ] == []
    play.deps.settings = replace(play.deps.settings, disruption_budgets=False)
    del play.cluster.objects["PodDisruptionBudget", "digits-v1"]
    play.settle()
    assert "digits-v1" not in budgets()


def observed(play: Rehearsal) -> Any:
    model = next(iter(play.cluster.models.values()))
    return play.wait_for(observe(parse_model(model), play.deps))
