"""Whatever happens in whatever order, some things always hold: a state machine drives the whole core on a real Redis.

After every single mutating call: shares sum to the whole stream, whoever serves a group has pods, stable keeps its capacity, nothing in
quarantine comes back by itself, one Job at a time, no number twice. While suspended nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from continual_contract.errors import UnavailableError
from continual_operator import labels
from continual_operator.rehearsal import Crash, Rehearsal, broken_promises, minimal_model, shard
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

Stage = Callable[..., Rehearsal]
wealth = st.sampled_from([0.0, -2.0, 1.0, 3.5, 4.5, 9.0, float("nan"), float("inf"), float("-inf")])


class Life(RuleBasedStateMachine):
    """One model, and everything that may happen to it."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.play = Rehearsal(self.url)
        self.broken: list[str] = []
        self.countdown = 0
        self.moment = "after"
        self.sequence = 0
        self.frozen: dict[str, int] | None = None
        self.play.hooks.hook = self._watch

    def _watch(self, when: str, call: str) -> None:
        if when == "after":
            self.broken += [f"after {call}: {problem}" for problem in broken_promises(self.play)]
        if when == self.moment and self.countdown:
            self.countdown -= 1
            if self.countdown == 0:
                raise Crash(call)

    def teardown(self) -> None:
        self.play.close()

    @initialize(supersede=st.sampled_from(["Queue", "Replace"]), instant=st.sampled_from(["Off", "Candidate", "Promote"]),
                default=st.sampled_from(["Rollback", "Wait", "Promote"]), first=st.sampled_from([0, 20]))  # fmt: skip
    def begin(self, supersede: str, instant: str, default: str, first: int) -> None:
        steps = [{"weight": first, "hold": "1s"}, {"weight": 60, "hold": "1s"}]
        gate = {"minDuration": "1s", "minLabels": 10}
        self.play.cluster.models[next(iter(self.play.cluster.models))] = minimal_model(
            retraining={"triggers": [{"labels": 10}, {"drift": {}}], "cooldown": "0s", "maxFailures": 50, "instantCorrections": instant},
            rollout={"steps": steps, "gate": gate, "deadline": "60s", "supersede": supersede, "onInconclusive": default,
                     "probation": {"minDuration": "1s", "minLabels": 10, "deadline": "40s"}},
        )  # fmt: skip
        self.play.serve_first()

    # -- what happens --------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, 65.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.pass_time(seconds)

    @rule(passes=st.integers(1, 6), ready=st.booleans())
    def the_operator_looks(self, passes: int, ready: bool) -> None:
        for _ in range(passes):
            if ready:
                self.play.make_ready()
            try:
                self.play.look()
            except Crash:
                self.play.restart()

    @rule()
    def all_settles(self) -> None:
        self.countdown = 0
        self.play.settle()

    @rule(calls=st.integers(1, 5), moment=st.sampled_from(["before", "after"]))
    def it_will_crash(self, calls: int, moment: str) -> None:
        self.countdown, self.moment = calls, moment

    @rule(version=st.integers(1, 6))
    def pods_die(self, version: int) -> None:
        self.play.make_ready(f"v{version}", 0)

    @rule(pairs=st.integers(0, 60), held=wealth, worse=wealth, coverage=st.sampled_from([None, 50.0, 100.0]),
          age=st.sampled_from([0.0, 0.0, 300.0]), alarms=st.integers(0, 3), correction=st.booleans())  # fmt: skip
    def the_evaluator_reports(
        self, pairs: int, held: float, worse: float, coverage: float | None, age: float, alarms: int, correction: bool
    ) -> None:
        if self.play.config is None:
            return
        self.sequence += 1
        kind = "correction" if correction else "train"
        shards = (*(shard(n, samples=20) for n in range(1, self.sequence)), shard(self.sequence, kind=kind))
        self.play.report(pairs, held, worse, coverage_percent=coverage, age=age, drift_alarms=alarms, shards=shards)
        self.the_operator_looks(4, ready=True)

    @rule(looks=st.integers(1, 4), good=st.booleans())
    def the_canary_is_labelled(self, looks: int, good: bool) -> None:
        """The ordinary course of things, without which a random life is spent waiting."""
        for _ in range(looks):
            self.play.pass_time(2.0)
            if self.play.config is not None:
                self.play.report(
                    60, held=9.0 if good else 0.0, worse=0.0 if good else 9.0, shards=(shard(self.sequence + 1),)
                )
            self.the_operator_looks(5, ready=True)

    @rule()
    def the_next_candidate_is_trained(self) -> None:
        self.sequence += 1
        self.play.pass_time(2.0)
        if self.play.config is not None:
            self.play.report(shards=tuple(shard(n, samples=20) for n in range(1, self.sequence + 1)))
        self.the_operator_looks(4, ready=True)
        self.the_training_ends("good")
        self.the_operator_looks(4, ready=True)

    @rule(how=st.sampled_from(["good", "good", "worse", "failed"]))
    def the_training_ends(self, how: str) -> None:
        training = self.play.status.training
        if training is not None and training.in_flight:
            self.play.end_training(
                accuracy=0.9 if how == "good" else 0.3, failure="Diverged" if how == "failed" else ""
            )

    @rule(
        verb=st.sampled_from([labels.PROMOTE, labels.APPROVE, labels.REJECT]),
        version=st.integers(1, 6),
        stamp=st.integers(0, 3),
    )
    def a_person_speaks(self, verb: str, version: int, stamp: int) -> None:
        self.play.annotate(verb, f"v{version}@{stamp}")

    @rule(verb=st.sampled_from([labels.ROLLBACK, labels.RETRAIN, labels.CANCEL]), stamp=st.integers(0, 3))
    def a_person_asks(self, verb: str, stamp: int) -> None:
        self.play.annotate(verb, str(stamp))

    @rule(version=st.none() | st.integers(1, 4).map(lambda n: f"v{n}"))
    def it_is_pinned(self, version: str | None) -> None:
        model = self.play.cluster.models[next(iter(self.play.cluster.models))]
        model["spec"]["rollout"].pop("pinnedVersion", None)
        self.play.change_spec(rollout={"pinnedVersion": version} if version else {})

    @rule(replicas=st.integers(1, 4))
    def it_is_scaled(self, replicas: int) -> None:
        self.play.change_spec(serving={"replicas": replicas})
        self.all_settles()

    @rule()
    def it_is_suspended(self) -> None:
        self.play.change_spec(suspend=True)
        self.all_settles()
        self.frozen = self.play.shares

    @rule()
    def it_is_resumed(self) -> None:
        self.frozen = None
        self.play.change_spec(suspend=False)

    # -- what holds ----------------------------------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        assert not self.broken, self.broken[:5]

    @invariant()
    def nothing_moves_while_suspended(self) -> None:
        assert self.frozen is None or self.play.shares == self.frozen

    @invariant()
    def the_status_reads_back(self) -> None:
        status = self.play.status
        assert type(status).model_validate(status.to_dict()) == status


def run(url: str, examples: int, steps: int, **more: Any) -> None:
    """In CI the same lives in every run; elsewhere, and with `derandomize=False`, other ones each time."""
    machine: Any = type("LifeHere", (Life,), {"url": url})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck), **more,
        ),
    )  # fmt: skip


def test_promises_hold_whatever_happens(redis_server: Any) -> None:
    """C1, C8, quarantine, suspend: under any order of events, crashes included."""
    run(redis_server.url, examples=30, steps=40)


@pytest.mark.long
def test_promises_hold_whatever_happens_for_long(redis_server: Any) -> None:
    """The same, hundreds of lives, other ones in every run."""
    run(redis_server.url, examples=300, steps=60, derandomize=False)


def test_mutation_quarantine_that_forgets_is_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the offline gate blind to quarantine a rolled-back digest comes back, and the check says so."""
    from continual_operator import training

    def come_back(play: Rehearsal) -> list[str]:
        play.serve_first()
        play.reach_shadow(1)
        play.report(pairs=20, worse=4.0)
        play.settle()
        digest = play.status.record("v2").digest
        assert digest in play.status.quarantine
        play.pass_time(3600)
        play.report(shards=(shard(1), shard(2)))
        play.settle()
        job = play.status.training.job
        play.registry.put_outcome(play.registry.outcome(play.status.record("v2").job).model_copy(update={"job": job}))
        play.settle()
        return broken_promises(play)

    assert come_back(stage()) == []
    judged = training._judge

    def forgetful(draft: Any, *args: Any) -> Any:
        kept = draft.status.quarantine
        return judged(draft.to(quarantine=()), *args).to(quarantine=kept)

    monkeypatch.setattr(training, "_judge", forgetful)
    assert any("in quarantine and live" in problem for problem in come_back(stage()))


def test_a_redis_that_is_away_is_a_condition_and_no_decision(stage: Stage) -> None:
    """O8: Ready=False with its reason; nothing is judged on what could not be read."""
    play = stage()
    play.serve_first()
    play.reach_shadow()

    class Away:
        def pipeline(self, **_: Any) -> Any:
            raise redis.ConnectionError("refused")

        def __getattr__(self, name: str) -> Any:
            raise redis.ConnectionError("refused")

    connected = play.deps.redis
    play.deps.redis = Away()  # type: ignore[assignment]
    before = play.status.ledger_sequence
    play.pass_time(500)
    play.settle()
    said = {c.type: c for c in play.status.conditions}
    assert (said["Ready"].status, said["Ready"].reason) == ("False", "RedisUnavailable")
    assert play.status.ledger_sequence == before
    play.deps.redis = connected
    play.report(pairs=1)
    play.settle()
    assert {c.type: c.status for c in play.status.conditions}["Serving"] == "True"


def test_a_store_that_is_away_does_not_stop_a_rollback(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4, R6: routes change, the ledger waits in the status and is written when the store is back."""
    from continual_contract.errors import StoreUnavailableError

    play = stage()
    play.serve_first()
    play.reach_shadow()

    def away(*_: Any) -> Any:
        raise StoreUnavailableError("no answer", field="store")

    with monkeypatch.context() as patch:
        for name in ("put", "get", "exists"):
            patch.setattr(type(play.store), name, away)
        play.report(pairs=20, worse=4.0)
        for _ in range(12):
            play.make_ready()
            try:
                play.look()
            except UnavailableError:
                continue
        assert play.shares == {"v1": 10_000}
        assert play.status.outbox
    play.settle()
    assert play.status.outbox == ()
    assert len([key for key in play.store.objects if "/decisions/" in key]) == play.status.ledger_sequence
